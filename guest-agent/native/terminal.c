/* A new pseudo-terminal of a devpts. */
#include "become.h"

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <fcntl.h>

int terminal_slave(int master, int64_t rows, int64_t columns, const char **call) {
    struct stat info;
    *call = "fstatat";
    if (fstat(master, &info) < 0) return -1;
    /* devices.txt: /dev/ptmx and the ptmx of a devpts instance */
    *call = "multiplexer";
    errno = ENOTTY;
    if (info.st_rdev != makedev(5, 2)) return -1;
    *call = "ioctl";
    int unlocked = 0;
    if (ioctl(master, TIOCSPTLCK, &unlocked) < 0) return -1;
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0 || rows <= 0 || columns <= 0) return slave;
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    if (ioctl(master, TIOCSWINSZ, &size) == 0) return slave;
    close(slave);
    return -1;
}

/* terminalSlave(master, rows, columns): undefined when `master` is not a multiplexer */
SYS_IMPL(js_terminal_slave) {
    SYS_UNUSED;
    SYS_ARG_I32(master, 0);
    SYS_ARG_I64(rows, 1);
    SYS_ARG_I64(columns, 2);
    const char *call;
    int slave = terminal_slave(master, rows, columns, &call);
    if (slave < 0 && strcmp(call, "multiplexer") == 0) return JS_UNDEFINED;
    return sys_result(ctx, call, slave);
}

static const JSCFunctionListEntry terminal_functions[] = {
    SYS_FN("terminalSlave", 3, js_terminal_slave),
};
SYS_TABLE(terminal_functions)
