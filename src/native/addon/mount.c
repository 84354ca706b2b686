/*
 * Mounts. Every call is a job on a thread of its own: a mount can hang for as long as a network server likes.
 *
 * The guest has a read-only view of the tree that the host mounts into. Should it ever come to write there it could put a
 * symbolic link where the host expects its own directory. With `beneath` the target is therefore resolved by openat2(2)
 * below that directory without following any link, and the mount is made on the descriptor, not on the name.
 */
#include "addon.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/syscall.h>

/* Since Linux 5.2 and 5.12 (include/uapi/linux/mount.h, fcntl.h); the C library has them only since 2.36. */
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#endif
#ifndef MOVE_MOUNT_T_EMPTY_PATH
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif

/* struct mount_attr of include/uapi/linux/mount.h, version 0 (32 bytes). */
typedef struct {
  uint64_t set, clear, propagation, userns_fd;
} mount_attributes;

typedef struct {
  caisson_job job;
  char *source, *target, *fstype, *data, *directory, *beneath;
  uint64_t flags;          /* MS_* or MNT_* */
  bool recursive;          /* with submounts */
  mount_attributes top;    /* of the mount itself */
  mount_attributes all;    /* of it and of every mount below */
} mount_job;

static void destroy(caisson_job *job) {
  mount_job *self = (mount_job *)job;
  free(self->source);
  free(self->target);
  free(self->fstype);
  free(self->data);
  free(self->directory);
  free(self->beneath);
  free(self);
}

/* The part of `path` below `root`, or NULL. "." when they are the same. */
static const char *relative_to(const char *root, const char *path) {
  size_t length = strlen(root);
  while (length > 1 && root[length - 1] == '/') length--;
  if (strncmp(root, path, length) != 0) return NULL;
  if (path[length] == '\0') return ".";
  if (length > 1 && path[length] != '/') return NULL;
  path += length;
  while (*path == '/') path++;
  return *path == '\0' ? "." : path;
}

/* O_PATH of `path`: below `beneath` without following links, or as the kernel resolves it. -1 and errno. */
static int open_path(const char *beneath, const char *path, int flags) {
  if (beneath == NULL) return (int)CAISSON_RETRY(open(path, O_PATH | O_CLOEXEC | flags));
  const char *relative = relative_to(beneath, path);
  if (relative == NULL) {
    errno = EXDEV;
    return -1;
  }
  CAISSON_AUTO_CLOSE int root = (int)CAISSON_RETRY(open(beneath, O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (root < 0) return -1;
  struct open_how how = {.flags = (uint64_t)(O_PATH | O_CLOEXEC | flags),
                         .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
  long fd;
  do { /* EAGAIN: a rename or mount elsewhere raced with the lookup (openat2(2)) */
    fd = syscall(SYS_openat2, root, relative, &how, sizeof how);
  } while (fd < 0 && (errno == EINTR || errno == EAGAIN));
  return (int)fd;
}

/* ---- mount(2) ------------------------------------------------------------------------------------------------ */

static void mount_run(caisson_job *job) {
  mount_job *self = (mount_job *)job;
  CAISSON_AUTO_CLOSE int target = -1;
  char name[64];
  const char *where = self->target;
  if (self->beneath != NULL) {
    target = open_path(self->beneath, self->target, 0);
    if (target < 0) {
      caisson_job_fail(job, errno, "openat2", self->target);
      return;
    }
    snprintf(name, sizeof name, "/proc/self/fd/%d", target);
    where = name;
  }
  if (self->directory != NULL) {
    if (unshare(CLONE_FS) != 0) {
      caisson_job_fail(job, errno, "unshare(CLONE_FS)", NULL);
      return;
    }
    if (chdir(self->directory) != 0) {
      caisson_job_fail(job, errno, "chdir", self->directory);
      return;
    }
  }
  if (CAISSON_RETRY(mount(self->source, where, self->fstype, (unsigned long)self->flags, self->data)) != 0)
    caisson_job_fail(job, errno, "mount", self->target);
}

static mount_job *new_job(napi_env env, void (*run)(caisson_job *)) {
  mount_job *self = calloc(1, sizeof *self);
  if (self == NULL) {
    caisson_throw(env, ENOMEM, "malloc", NULL);
    return NULL;
  }
  self->job.run = run;
  self->job.destroy = destroy;
  return self;
}

/* Starts the job when its arguments were read well, else frees it (an exception is pending). */
static napi_value start(napi_env env, mount_job *self, bool valid) {
  if (valid) return caisson_job_start(env, &self->job);
  destroy(&self->job);
  return NULL;
}

/*
 * mount(source|null, target, fstype|null, flags, data|null, directory|null, beneath|null): Promise<void>.
 * Relative paths in `data` start at `directory`. `data` must be shorter than a page, or the kernel cuts it silently.
 */
static napi_value mount_call(napi_env env, napi_callback_info info) {
  caisson_args args;
  if (!caisson_args_get(env, info, &args)) return NULL;
  mount_job *self = new_job(env, mount_run);
  if (self == NULL) return NULL;
  bool valid = caisson_arg_optional_string(&args, 0, "source", &self->source) &&
               caisson_arg_string(&args, 1, "target", &self->target) &&
               caisson_arg_optional_string(&args, 2, "fstype", &self->fstype) &&
               caisson_arg_u64(&args, 3, "flags", &self->flags) &&
               caisson_arg_optional_string(&args, 4, "data", &self->data) &&
               caisson_arg_optional_string(&args, 5, "directory", &self->directory) &&
               caisson_arg_optional_string(&args, 6, "beneath", &self->beneath);
  return start(env, self, valid);
}

/* ---- umount2(2) ---------------------------------------------------------------------------------------------- */

static void unmount_run(caisson_job *job) {
  mount_job *self = (mount_job *)job;
  const char *name = self->target;
  const char *relative = self->beneath == NULL ? NULL : relative_to(self->beneath, self->target);
  /* The directory `beneath` itself is trusted, and its parent is not below it. */
  if (self->beneath != NULL && (relative == NULL || strcmp(relative, ".") != 0)) {
    /* An open descriptor of the mount itself would make it busy, so the name is looked up in its parent. */
    char *slash = strrchr(self->target, '/');
    if (slash == NULL || slash == self->target || slash[1] == '\0') {
      caisson_job_fail(job, EINVAL, "umount2", self->target);
      return;
    }
    *slash = '\0';
    CAISSON_AUTO_CLOSE int parent = open_path(self->beneath, self->target, O_DIRECTORY);
    int error = errno;
    *slash = '/';
    if (parent < 0) {
      caisson_job_fail(job, error, "openat2", self->target);
      return;
    }
    if (unshare(CLONE_FS) != 0 || fchdir(parent) != 0) {
      caisson_job_fail(job, errno, "fchdir", self->target);
      return;
    }
    name = slash + 1;
  }
  if (CAISSON_RETRY(umount2(name, (int)self->flags | UMOUNT_NOFOLLOW)) != 0)
    caisson_job_fail(job, errno, "umount2", self->target);
}

/* unmount(target, flags, beneath|null): Promise<void>. flags are MNT_*; the last component is never followed. */
static napi_value unmount_call(napi_env env, napi_callback_info info) {
  caisson_args args;
  if (!caisson_args_get(env, info, &args)) return NULL;
  mount_job *self = new_job(env, unmount_run);
  if (self == NULL) return NULL;
  bool valid = caisson_arg_string(&args, 0, "target", &self->target) &&
               caisson_arg_u64(&args, 1, "flags", &self->flags) &&
               caisson_arg_optional_string(&args, 2, "beneath", &self->beneath);
  return start(env, self, valid);
}

/* ---- open_tree(2), mount_setattr(2), move_mount(2) --------------------------------------------------------------- */

static bool apply(mount_job *self, int fd, mount_attributes *attributes, unsigned flags) {
  if (attributes->set == 0 && attributes->clear == 0 && attributes->propagation == 0) return true;
  if (CAISSON_RETRY(syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | flags, attributes, sizeof *attributes)) == 0)
    return true;
  caisson_job_fail(&self->job, errno, "mount_setattr", self->target);
  return false;
}

static bool set_attributes(mount_job *self, int fd) {
  return apply(self, fd, &self->all, AT_RECURSIVE) && apply(self, fd, &self->top, 0);
}

/* Attributes of what is mounted at the target. */
static void attributes_run(caisson_job *job) {
  mount_job *self = (mount_job *)job;
  CAISSON_AUTO_CLOSE int target = open_path(self->beneath, self->target, 0);
  if (target < 0) caisson_job_fail(job, errno, "open", self->target);
  else set_attributes(self, target);
}

/*
 * A bind mount that has its attributes before anybody can see it: a remount after the fact would not reach the copies
 * that propagation has put into other mount namespaces meanwhile.
 */
static void bind_run(caisson_job *job) {
  mount_job *self = (mount_job *)job;
  unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (self->recursive ? AT_RECURSIVE : 0);
  CAISSON_AUTO_CLOSE int tree = (int)CAISSON_RETRY(syscall(SYS_open_tree, AT_FDCWD, self->source, flags));
  if (tree < 0) {
    caisson_job_fail(job, errno, "open_tree", self->source);
    return;
  }
  if (!set_attributes(self, tree)) return;
  CAISSON_AUTO_CLOSE int target = open_path(self->beneath, self->target, 0);
  if (target < 0) {
    caisson_job_fail(job, errno, "open", self->target);
    return;
  }
  if (CAISSON_RETRY(syscall(SYS_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)) != 0)
    caisson_job_fail(job, errno, "move_mount", self->target);
}

/* Six arguments from `index` on: set, clear (MOUNT_ATTR_*) and propagation (MS_*) of `top`, the same of `all`. */
static bool attribute_arguments(const caisson_args *args, size_t index, mount_job *self) {
  mount_attributes *groups[] = {&self->top, &self->all};
  for (size_t i = 0; i < CAISSON_COUNT(groups); i++, index += 3) {
    if (!caisson_arg_u64(args, index, "set", &groups[i]->set) ||
        !caisson_arg_u64(args, index + 1, "clear", &groups[i]->clear) ||
        !caisson_arg_u64(args, index + 2, "propagation", &groups[i]->propagation))
      return false;
  }
  return true;
}

/* setMountAttributes(target, beneath|null, <six attributes>): Promise<void>. */
static napi_value attributes_call(napi_env env, napi_callback_info info) {
  caisson_args args;
  if (!caisson_args_get(env, info, &args)) return NULL;
  mount_job *self = new_job(env, attributes_run);
  if (self == NULL) return NULL;
  bool valid = caisson_arg_string(&args, 0, "target", &self->target) &&
               caisson_arg_optional_string(&args, 1, "beneath", &self->beneath) && attribute_arguments(&args, 2, self);
  return start(env, self, valid);
}

/* bindMount(source, target, recursive, beneath|null, <six attributes>): Promise<void>. */
static napi_value bind_call(napi_env env, napi_callback_info info) {
  caisson_args args;
  if (!caisson_args_get(env, info, &args)) return NULL;
  mount_job *self = new_job(env, bind_run);
  if (self == NULL) return NULL;
  bool valid = caisson_arg_string(&args, 0, "source", &self->source) &&
               caisson_arg_string(&args, 1, "target", &self->target) &&
               caisson_arg_bool(&args, 2, "recursive", &self->recursive) &&
               caisson_arg_optional_string(&args, 3, "beneath", &self->beneath) && attribute_arguments(&args, 4, self);
  return start(env, self, valid);
}

void caisson_init_mount(napi_env env, napi_value exports) {
  static const caisson_function functions[] = {
      {"mount", mount_call},
      {"unmount", unmount_call},
      {"setMountAttributes", attributes_call},
      {"bindMount", bind_call},
  };
  caisson_define(env, exports, functions, CAISSON_COUNT(functions));
}
