/* Preloaded into a process: kills it at operation number N on files, counted from `kill_at(N)`.

Counted is what changes a disk, in whatever language it is called. The operation itself does not take place, so that
the process is gone between two of them; of a write only half reaches the file. Nothing waits for the disk: a process
that is killed loses nothing that the system has. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long counted, fatal;

void kill_at(long number) { counted = 0; fatal = number; }
long operations(void) { return counted; }

static int reached(void) { return fatal && atomic_fetch_add(&counted, 1) + 1 == fatal; }
static void die(void) { for (;;) kill(getpid(), SIGKILL); }
static void step(void) { if (reached()) die(); }

static int is_file(int fd) {
  struct stat facts;
  return fd > 2 && fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define COUNTED(result, name, parameters, arguments) \
  result name parameters { step(); return REAL(name) arguments; }

COUNTED(int, rename, (const char *a, const char *b), (a, b))
COUNTED(int, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b))
COUNTED(int, renameat2, (int d, const char *a, int e, const char *b, unsigned f), (d, a, e, b, f))
COUNTED(int, link, (const char *a, const char *b), (a, b))
COUNTED(int, linkat, (int d, const char *a, int e, const char *b, int f), (d, a, e, b, f))
COUNTED(int, symlink, (const char *a, const char *b), (a, b))
COUNTED(int, symlinkat, (const char *a, int d, const char *b), (a, d, b))
COUNTED(int, mkdir, (const char *a, mode_t m), (a, m))
COUNTED(int, mkdirat, (int d, const char *a, mode_t m), (d, a, m))
COUNTED(int, unlink, (const char *a), (a))
COUNTED(int, unlinkat, (int d, const char *a, int f), (d, a, f))
COUNTED(int, rmdir, (const char *a), (a))
COUNTED(int, truncate, (const char *a, off_t n), (a, n))
COUNTED(int, truncate64, (const char *a, off64_t n), (a, n))
COUNTED(int, ftruncate, (int d, off_t n), (d, n))
COUNTED(int, ftruncate64, (int d, off64_t n), (d, n))
COUNTED(ssize_t, sendfile, (int o, int i, off_t *p, size_t n), (o, i, p, n))
COUNTED(ssize_t, sendfile64, (int o, int i, off64_t *p, size_t n), (o, i, p, n))
COUNTED(ssize_t, copy_file_range, (int i, off64_t *p, int o, off64_t *q, size_t n, unsigned f), (i, p, o, q, n, f))

int fsync(int fd) { (void)fd; step(); return 0; }
int fdatasync(int fd) { (void)fd; step(); return 0; }

ssize_t write(int fd, const void *bytes, size_t count) {
  if (is_file(fd) && reached()) { REAL(write)(fd, bytes, count / 2); die(); }
  return REAL(write)(fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
  if (is_file(fd) && reached()) { REAL(pwrite64)(fd, bytes, count / 2, at); die(); }
  return REAL(pwrite64)(fd, bytes, count, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (is_file(fd) && reached()) { REAL(writev)(fd, parts, count / 2); die(); }
  return REAL(writev)(fd, parts, count);
}

#define OPENED(name, first, passed) \
  int name(first const char *path, int flags, ...) { \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    if (flags & (O_CREAT | O_TRUNC)) step(); \
    return REAL(name)(passed path, flags, mode); \
  }
#define NONE
#define FOLDER int folder,
#define PASSED folder,

OPENED(open, NONE, NONE)
OPENED(open64, NONE, NONE)
OPENED(openat, FOLDER, PASSED)
OPENED(openat64, FOLDER, PASSED)
