/* Counts the calls of a process that change files, or those that look at them, and breaks one: LD_PRELOAD.
 *
 * strace counts for each thread alone, and the daemon's steps run in a pool of threads: here the whole process counts.
 * It begins once the file $SWEEP_ARM is there, so that starting up is not counted. Each counted call is a line of
 * $SWEEP_LOG: its number, its name, the time of day and, of a look, the file. Call number $SWEEP_AT is not made: `kill`
 * ends the process, as a crash between two calls does; `eio` and `enospc` are its error, and that call is the only one
 * that fails. `read` counts the looks instead of the changes, those at the disk of $SWEEP_DISK alone, and fails
 * one with EIO: a name that is not there is looked up on that disk, too.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static atomic_int armed, count;
static int at, error_number, of_looks;
static char log_path[256], arm_path[256];
static dev_t disk;

/* Past the C library, whose functions are ours, and with no trace: readdir() says by errno alone that it failed. */
static int found(int directory, const char *path, struct stat *into) {
    int before = errno;
    int failed = syscall(SYS_newfstatat, directory, path, into, *path ? AT_SYMLINK_NOFOLLOW : AT_EMPTY_PATH);
    errno = before;
    return !failed;
}

static int is_there(const char *path) {
    struct stat any;
    return found(AT_FDCWD, path, &any);
}

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("SWEEP_AT"), *fault = getenv("SWEEP_FAULT");
    struct stat seen;
    at = text ? atoi(text) : 0;
    of_looks = fault && !strcmp(fault, "read");
    error_number = of_looks || (fault && !strcmp(fault, "eio")) ? EIO : fault && !strcmp(fault, "enospc") ? ENOSPC : 0;
    if ((text = getenv("SWEEP_LOG")))
        snprintf(log_path, sizeof log_path, "%s", text);
    if ((text = getenv("SWEEP_ARM")))
        snprintf(arm_path, sizeof arm_path, "%s", text);
    if ((text = getenv("SWEEP_DISK")) && found(AT_FDCWD, text, &seen))
        disk = seen.st_dev;
    unsetenv("LD_PRELOAD"); /* for this process alone */
    if (is_there(log_path))
        arm_path[0] = 0; /* the daemon that came after the one that was broken */
}

static int is_armed(void) {
    if (!armed && arm_path[0] && is_there(arm_path))
        armed = 1;
    return armed;
}

static int is_at(const char *name, const char *path) {
    int number = atomic_fetch_add(&count, 1) + 1;
    char line[512];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int length =
        snprintf(line, sizeof line, "%d %s %ld.%09ld %.400s\n", number, name, (long)now.tv_sec, now.tv_nsec, path);
    int handle = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (handle < 0 || syscall(SYS_write, handle, line, length) < 0)
        abort();
    syscall(SYS_close, handle);
    if (number != at)
        return 0;
    if (!error_number) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    errno = error_number;
    return 1;
}

static int breaks(const char *name) { return !of_looks && is_armed() && is_at(name, ""); }

/* A look at a name: on the disk if that, or the nearest directory above it that is there, lies on it. */
static int misses(const char *name, int directory, const char *path) {
    struct stat seen;
    char above[512];
    if (!of_looks || !is_armed())
        return 0;
    snprintf(above, sizeof above, "%s", path);
    while (!found(directory, above, &seen)) {
        char *slash = strrchr(above, '/');
        if (!slash || slash == above) {
            if (!found(directory, slash ? "/" : "", &seen))
                return 0;
            break;
        }
        *slash = 0;
    }
    return seen.st_dev == disk && is_at(name, path);
}

/* A look into an open file or directory. */
static int misses_in(const char *name, int descriptor) {
    struct stat seen;
    char link[64], path[400];
    if (!of_looks || !is_armed() || !found(descriptor, "", &seen) || seen.st_dev != disk)
        return 0;
    if (!S_ISREG(seen.st_mode) && !S_ISDIR(seen.st_mode))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return is_at(name, path);
}

static int is_file(int descriptor) {
    struct stat seen;
    return found(descriptor, "", &seen) && (S_ISREG(seen.st_mode) || S_ISDIR(seen.st_mode));
}

#define CALL(name, params, types, args)                                                                                \
    int name params {                                                                                                  \
        static int(*real) types;                                                                                       \
        if (!real)                                                                                                     \
            real = (int(*) types)dlsym(RTLD_NEXT, #name);                                                              \
        return breaks(#name) ? -1 : real args;                                                                         \
    }

CALL(rename, (const char *a, const char *b), (const char *, const char *), (a, b))
CALL(renameat, (int d, const char *a, int e, const char *b), (int, const char *, int, const char *), (d, a, e, b))
CALL(renameat2, (int d, const char *a, int e, const char *b, unsigned f),
     (int, const char *, int, const char *, unsigned), (d, a, e, b, f))
CALL(unlink, (const char *a), (const char *), (a))
CALL(unlinkat, (int d, const char *a, int f), (int, const char *, int), (d, a, f))
CALL(rmdir, (const char *a), (const char *), (a))
CALL(mkdir, (const char *a, mode_t m), (const char *, mode_t), (a, m))
CALL(mkdirat, (int d, const char *a, mode_t m), (int, const char *, mode_t), (d, a, m))
CALL(symlink, (const char *a, const char *b), (const char *, const char *), (a, b))
CALL(symlinkat, (const char *a, int d, const char *b), (const char *, int, const char *), (a, d, b))
CALL(link, (const char *a, const char *b), (const char *, const char *), (a, b))
CALL(linkat, (int d, const char *a, int e, const char *b, int f), (int, const char *, int, const char *, int),
     (d, a, e, b, f))
CALL(fsync, (int d), (int), (d))
CALL(fdatasync, (int d), (int), (d))
CALL(syncfs, (int d), (int), (d))
CALL(ftruncate, (int d, off_t n), (int, off_t), (d, n))
CALL(ftruncate64, (int d, off64_t n), (int, off64_t), (d, n))
CALL(fchown, (int d, uid_t u, gid_t g), (int, uid_t, gid_t), (d, u, g))
CALL(lchown, (const char *a, uid_t u, gid_t g), (const char *, uid_t, gid_t), (a, u, g))
CALL(chown, (const char *a, uid_t u, gid_t g), (const char *, uid_t, gid_t), (a, u, g))
CALL(fchownat, (int d, const char *a, uid_t u, gid_t g, int f), (int, const char *, uid_t, gid_t, int),
     (d, a, u, g, f))
CALL(fchmod, (int d, mode_t m), (int, mode_t), (d, m))
CALL(chmod, (const char *a, mode_t m), (const char *, mode_t), (a, m))
CALL(fchmodat, (int d, const char *a, mode_t m, int f), (int, const char *, mode_t, int), (d, a, m, f))
CALL(utimensat, (int d, const char *a, const struct timespec t[2], int f),
     (int, const char *, const struct timespec *, int), (d, a, t, f))
CALL(futimens, (int d, const struct timespec t[2]), (int, const struct timespec *), (d, t))

#define BYTES(name, type, params, types, args)                                                                         \
    type name params {                                                                                                 \
        static type(*real) types;                                                                                      \
        if (!real)                                                                                                     \
            real = (type(*) types)dlsym(RTLD_NEXT, #name);                                                             \
        return is_file(d) && breaks(#name) ? -1 : real args;                                                           \
    }

/* What goes to sockets and pipes changes no file. */
BYTES(write, ssize_t, (int d, const void *b, size_t n), (int, const void *, size_t), (d, b, n))
BYTES(pwrite, ssize_t, (int d, const void *b, size_t n, off_t o), (int, const void *, size_t, off_t), (d, b, n, o))
BYTES(pwrite64, ssize_t, (int d, const void *b, size_t n, off64_t o), (int, const void *, size_t, off64_t),
      (d, b, n, o))
BYTES(copy_file_range, ssize_t, (int s, off64_t *o, int d, off64_t *p, size_t n, unsigned f),
      (int, off64_t *, int, off64_t *, size_t, unsigned), (s, o, d, p, n, f))
BYTES(sendfile64, ssize_t, (int d, int s, off64_t *o, size_t n), (int, int, off64_t *, size_t), (d, s, o, n))
BYTES(sendfile, ssize_t, (int d, int s, off_t *o, size_t n), (int, int, off_t *, size_t), (d, s, o, n))
BYTES(writev, ssize_t, (int d, const struct iovec *v, int n), (int, const struct iovec *, int), (d, v, n))

int ioctl(int d, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    if (!real)
        real = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if ((request == 0x40049409UL && breaks("FICLONE")) || (request == 0xC020660BUL && misses_in("FIEMAP", d)))
        return -1;
    return real(d, request, argument);
}

#define OPENS(name, params, types, args, last, directory)                                                              \
    int name params {                                                                                                  \
        static int(*real) types;                                                                                       \
        if (!real)                                                                                                     \
            real = (int(*) types)dlsym(RTLD_NEXT, #name);                                                              \
        va_list rest;                                                                                                  \
        va_start(rest, last);                                                                                          \
        mode_t m = va_arg(rest, mode_t);                                                                               \
        va_end(rest);                                                                                                  \
        return ((f & O_CREAT) && breaks(#name)) || misses(#name, directory, a) ? -1 : real args;                       \
    }

/* Of the changes only those that may make a file. */
OPENS(open, (const char *a, int f, ...), (const char *, int, ...), (a, f, m), f, AT_FDCWD)
OPENS(open64, (const char *a, int f, ...), (const char *, int, ...), (a, f, m), f, AT_FDCWD)
OPENS(openat, (int d, const char *a, int f, ...), (int, const char *, int, ...), (d, a, f, m), f, d)
OPENS(openat64, (int d, const char *a, int f, ...), (int, const char *, int, ...), (d, a, f, m), f, d)

#define LOOKS(name, type, failed, params, types, args, test)                                                           \
    type name params {                                                                                                 \
        static type(*real) types;                                                                                      \
        if (!real)                                                                                                     \
            real = (type(*) types)dlsym(RTLD_NEXT, #name);                                                             \
        return test ? failed : real args;                                                                              \
    }
#define LOOKS_AT(name, type, failed, params, types, args)                                                              \
    LOOKS(name, type, failed, params, types, args, misses(#name, AT_FDCWD, a))
#define LOOKS_FROM(name, type, params, types, args) LOOKS(name, type, -1, params, types, args, misses(#name, d, a))
#define LOOKS_IN(name, type, params, types, args) LOOKS(name, type, -1, params, types, args, misses_in(#name, d))

LOOKS_AT(stat64, int, -1, (const char *a, struct stat64 *s), (const char *, struct stat64 *), (a, s))
LOOKS_AT(lstat64, int, -1, (const char *a, struct stat64 *s), (const char *, struct stat64 *), (a, s))
LOOKS_AT(statvfs64, int, -1, (const char *a, struct statvfs64 *s), (const char *, struct statvfs64 *), (a, s))
LOOKS_AT(access, int, -1, (const char *a, int m), (const char *, int), (a, m))
LOOKS_AT(readlink, ssize_t, -1, (const char *a, char *b, size_t n), (const char *, char *, size_t), (a, b, n))
LOOKS_AT(opendir, DIR *, NULL, (const char *a), (const char *), (a))
LOOKS_AT(getxattr, ssize_t, -1, (const char *a, const char *x, void *b, size_t n),
         (const char *, const char *, void *, size_t), (a, x, b, n))
LOOKS_AT(lgetxattr, ssize_t, -1, (const char *a, const char *x, void *b, size_t n),
         (const char *, const char *, void *, size_t), (a, x, b, n))
LOOKS_AT(listxattr, ssize_t, -1, (const char *a, char *b, size_t n), (const char *, char *, size_t), (a, b, n))
LOOKS_AT(llistxattr, ssize_t, -1, (const char *a, char *b, size_t n), (const char *, char *, size_t), (a, b, n))
LOOKS_FROM(fstatat64, int, (int d, const char *a, struct stat64 *s, int f),
           (int, const char *, struct stat64 *, int), (d, a, s, f))
LOOKS_FROM(faccessat, int, (int d, const char *a, int m, int f), (int, const char *, int, int), (d, a, m, f))
LOOKS_FROM(readlinkat, ssize_t, (int d, const char *a, char *b, size_t n), (int, const char *, char *, size_t),
           (d, a, b, n))
LOOKS_IN(fstat64, int, (int d, struct stat64 *s), (int, struct stat64 *), (d, s))
LOOKS_IN(fstatvfs64, int, (int d, struct statvfs64 *s), (int, struct statvfs64 *), (d, s))
LOOKS_IN(read, ssize_t, (int d, void *b, size_t n), (int, void *, size_t), (d, b, n))
LOOKS_IN(readv, ssize_t, (int d, const struct iovec *v, int n), (int, const struct iovec *, int), (d, v, n))
LOOKS_IN(pread64, ssize_t, (int d, void *b, size_t n, off64_t o), (int, void *, size_t, off64_t), (d, b, n, o))
LOOKS_IN(fgetxattr, ssize_t, (int d, const char *x, void *b, size_t n), (int, const char *, void *, size_t),
         (d, x, b, n))
LOOKS_IN(flistxattr, ssize_t, (int d, char *b, size_t n), (int, char *, size_t), (d, b, n))
LOOKS(readdir64, struct dirent64 *, NULL, (DIR * p), (DIR *), (p), misses_in("readdir64", dirfd(p)))
