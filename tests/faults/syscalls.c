/* Fails the n-th call that changes a file below a folder; preloaded before libc.

   Every change that Python, SQLite, torch and DuckDB make to a file ends in one of these calls.
   below:  only files below this folder count.
   target: the number of the call that fails, 0 for none; `changes` counts them.
   action: an errno, or one of the deaths below.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { DIES_BEFORE = -1, DIES_AFTER = -2, DIES_HALFWAY = -3 };

static char below[PATH_MAX];
static long target, changes;
static int action;

void fault_below(const char *folder) { strncpy(below, folder, sizeof below - 1); }
void fault_arm(long nth, int what) { changes = 0; action = what; target = nth; }
long fault_changes(void) { return changes; }

static int is_below(const char *path) {
    size_t length = strlen(below);
    return length && strncmp(path, below, length) == 0 && path[length] == '/';
}

static int is_file_below(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static int is_turn(int counts) {
    return counts && __atomic_add_fetch(&changes, 1, __ATOMIC_SEQ_CST) == target;
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* `half` is what a torn write leaves. */
#define CHANGE(counts, call, half) \
    if (!is_turn(counts)) return call; \
    if (action > 0) { errno = action; return -1; } \
    if (action == DIES_HALFWAY) { half; die(); } \
    if (action == DIES_AFTER) (void)!call; \
    die(); \
    return -1

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    CHANGE(is_file_below(fd), real(fd, data, size), (void)!real(fd, data, size / 2));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    CHANGE(is_file_below(fd), real(fd, data, size, at), (void)!real(fd, data, size / 2, at));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    CHANGE(is_file_below(fd), real(fd, data, size, at), (void)!real(fd, data, size / 2, at));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    CHANGE(is_file_below(fd), real(fd, parts, count), (void)!real(fd, parts, count / 2));
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) {
    REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
    CHANGE(is_file_below(out), real(out, in, at, size), (void)!real(out, in, at, size / 2));
}
ssize_t sendfile(int out, int in, off_t *at, size_t size) {
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    CHANGE(is_file_below(out), real(out, in, at, size), (void)!real(out, in, at, size / 2));
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *at, size_t size, unsigned how) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    CHANGE(is_file_below(out), real(in, from, out, at, size, how), );
}
int fsync(int fd) { REAL(int, fsync, int); CHANGE(is_file_below(fd), real(fd), ); }
int fdatasync(int fd) { REAL(int, fdatasync, int); CHANGE(is_file_below(fd), real(fd), ); }
int ftruncate64(int fd, off64_t size) {
    REAL(int, ftruncate64, int, off64_t);
    CHANGE(is_file_below(fd), real(fd, size), );
}
int ftruncate(int fd, off_t size) {
    REAL(int, ftruncate, int, off_t);
    CHANGE(is_file_below(fd), real(fd, size), );
}
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    CHANGE(is_below(to), real(from, to), );
}
int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    CHANGE(is_below(to), real(from, to), );
}
int symlink(const char *from, const char *to) {
    REAL(int, symlink, const char *, const char *);
    CHANGE(is_below(to), real(from, to), );
}
int unlink(const char *path) {
    REAL(int, unlink, const char *);
    CHANGE(is_below(path), real(path), );
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    CHANGE(is_below(path), real(path, mode), );
}

#define OPENS(flags) ((flags) & (O_CREAT | O_TRUNC))
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & O_CREAT) { \
        va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); \
    }
int open(const char *path, int flags, ...) {
    MODE(flags)
    REAL(int, open, const char *, int, ...);
    CHANGE(OPENS(flags) && is_below(path), real(path, flags, mode), );
}
int open64(const char *path, int flags, ...) {
    MODE(flags)
    REAL(int, open64, const char *, int, ...);
    CHANGE(OPENS(flags) && is_below(path), real(path, flags, mode), );
}
int openat(int folder, const char *path, int flags, ...) {
    MODE(flags)
    REAL(int, openat, int, const char *, int, ...);
    CHANGE(OPENS(flags) && is_below(path), real(folder, path, flags, mode), );
}
FILE *fopen64(const char *path, const char *how) {
    REAL(FILE *, fopen64, const char *, const char *);
    if (*how == 'r' || !is_turn(is_below(path))) return real(path, how);
    if (action > 0) { errno = action; return NULL; }
    die();
    return NULL;
}
