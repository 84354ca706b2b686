/*
 * Input and output on a directory: prints "name<TAB>unit<TAB>value" lines.
 *
 *   fs-probe DIRECTORY FILES
 *
 * FILES is a multiple of 100. What is to be done with each of them ends after 60 s, done or not.
 * What is read has been dropped from this kernel's cache by posix_fadvise() before; the host's, below a guest, has it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, FILE_MIB = 64, BLOCK = 4096, RANDOM_OPS = 1000, FILES = 500, TREE_DIRS = 100, SMALL = 1024, PHASE_LIMIT_S = 60 };

static char buffer[MIB];
static double samples[RANDOM_OPS];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void need(int good, const char *what) {
  if (good) return;
  perror(what);
  exit(1);
}

static void report(const char *name, const char *unit, double value) { printf("%s\t%s\t%.3f\n", name, unit, value); }

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void report_samples(const char *name) {
  char label[80];
  qsort(samples, RANDOM_OPS, sizeof *samples, compare);
  snprintf(label, sizeof label, "%s, p50", name);
  report(label, "us", samples[RANDOM_OPS / 2] * 1e6);
  snprintf(label, sizeof label, "%s, p99", name);
  report(label, "us", samples[RANDOM_OPS * 99 / 100] * 1e6);
}

static off_t random_offset(void) { return (off_t)(rand() % (FILE_MIB * (MIB / BLOCK))) * BLOCK; }

static void one_file(void) {
  int fd = open("data", O_RDWR | O_CREAT | O_TRUNC, 0600);
  need(fd >= 0, "data");
  double begun = now();
  for (int i = 0; i < FILE_MIB; i++) need(write(fd, buffer, MIB) == MIB, "write");
  need(fsync(fd) == 0, "fsync");
  report("sequential write of 64 MiB and fsync", "MiB/s", FILE_MIB / (now() - begun));
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  lseek(fd, 0, SEEK_SET);
  begun = now();
  for (int i = 0; i < FILE_MIB; i++) need(read(fd, buffer, MIB) == MIB, "read");
  report("sequential read of 64 MiB", "MiB/s", FILE_MIB / (now() - begun));
  posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  for (int i = 0; i < RANDOM_OPS; i++) {
    off_t at = random_offset();
    begun = now();
    need(pread(fd, buffer, BLOCK, at) == BLOCK, "pread");
    samples[i] = now() - begun;
  }
  report_samples("random read of 4 KiB");
  for (int i = 0; i < RANDOM_OPS; i++) {
    off_t at = random_offset();
    begun = now();
    need(pwrite(fd, buffer, BLOCK, at) == BLOCK, "pwrite");
    need(fdatasync(fd) == 0, "fdatasync");
    samples[i] = now() - begun;
  }
  report_samples("random write of 4 KiB and fdatasync");
  close(fd);
  unlink("data");
}

static void metadata(void) {
  char name[32], other[32];
  struct stat st;
  double begun = now();
  for (int i = 0; i < FILES; i++) {
    snprintf(name, sizeof name, "m%d", i);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    need(fd >= 0, name);
    close(fd);
  }
  report("create a file", "us", (now() - begun) / FILES * 1e6);
  begun = now();
  for (int i = 0; i < FILES; i++) {
    snprintf(name, sizeof name, "m%d", i);
    need(stat(name, &st) == 0, name);
  }
  report("stat a file", "us", (now() - begun) / FILES * 1e6);
  begun = now();
  for (int i = 0; i < FILES; i++) {
    snprintf(name, sizeof name, "m%d", i);
    snprintf(other, sizeof other, "n%d", i);
    need(rename(name, other) == 0, name);
  }
  report("rename a file", "us", (now() - begun) / FILES * 1e6);
  begun = now();
  for (int i = 0; i < FILES; i++) {
    snprintf(other, sizeof other, "n%d", i);
    need(unlink(other) == 0, other);
  }
  report("remove a file", "us", (now() - begun) / FILES * 1e6);
}

/* When the phase of the tree began that runs now. */
static double phase_begun;

static int time_is_over(void) { return now() - phase_begun > PHASE_LIMIT_S; }

/* The rate, and how many it is the rate of: fewer than asked for where the time was over. */
static void report_phase(int files, const char *what, int done) {
  double seconds = now() - phase_begun;
  char label[80];
  snprintf(label, sizeof label, "tree of %d files of 1 KiB: %s", files, what);
  report(label, "1/s", done / seconds);
  snprintf(label, sizeof label, "tree of %d files of 1 KiB: %s, how many", files, what);
  report(label, "count", done);
}

static int write_tree(int each) {
  char name[64];
  int done = 0;
  for (int d = 0; d < TREE_DIRS && !time_is_over(); d++) {
    snprintf(name, sizeof name, "t%d", d);
    need(mkdir(name, 0700) == 0, name);
    for (int f = 0; f < each && !time_is_over(); f++, done++) {
      snprintf(name, sizeof name, "t%d/%d", d, f);
      int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0600);
      need(fd >= 0 && write(fd, buffer, SMALL) == SMALL, name);
      close(fd);
    }
  }
  return done;
}

static int read_directory(DIR *dir) {
  struct stat st;
  int done = 0;
  for (struct dirent *entry; !time_is_over() && (entry = readdir(dir)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    int fd = openat(dirfd(dir), entry->d_name, O_RDONLY);
    need(fd >= 0 && fstat(fd, &st) == 0 && read(fd, buffer, SMALL) == SMALL, entry->d_name);
    close(fd);
    done++;
  }
  return done;
}

static int read_tree(void) {
  char name[64];
  int done = 0;
  for (int d = 0; d < TREE_DIRS && !time_is_over(); d++) {
    snprintf(name, sizeof name, "t%d", d);
    DIR *dir = opendir(name);
    if (dir == NULL) break;
    done += read_directory(dir);
    closedir(dir);
  }
  return done;
}

static int remove_tree(int each, int written) {
  char name[64];
  int done = 0;
  while (done < written && !time_is_over()) {
    int d = done / each;
    snprintf(name, sizeof name, "t%d/%d", d, done % each);
    need(unlink(name) == 0, name);
    if (++done % each != 0) continue;
    snprintf(name, sizeof name, "t%d", d);
    need(rmdir(name) == 0, name);
  }
  return done;
}

/* In TREE_DIRS directories. */
static void tree(int files) {
  int each = files / TREE_DIRS;
  phase_begun = now();
  int written = write_tree(each);
  report_phase(files, "write", written);
  phase_begun = now();
  report_phase(files, "list, open and read", read_tree());
  phase_begun = now();
  report_phase(files, "remove", remove_tree(each, written));
}

int main(int argc, char **argv) {
  need(argc == 3 && chdir(argv[1]) == 0, "usage: fs-probe DIRECTORY FILES");
  memset(buffer, 0x5a, sizeof buffer);
  srand(1);
  one_file();
  metadata();
  tree(atoi(argv[2]));
  puts("done");
  return 0;
}
