/* Counts the calls of a process that change files, and breaks one of them: LD_PRELOAD.
 *
 * strace counts for each thread alone, and the daemon's steps run in a pool of threads: here the whole process counts.
 * It begins once the file $SWEEP_ARM is there, so that starting up is not counted. Each counted call is a line of
 * $SWEEP_LOG: its number, its name and the time of day. Call number $SWEEP_AT is not made: `kill` ends the process, as a crash between two
 * calls does; `eio` and `enospc` are its error, and that call is the only one that fails.
 */
#define _GNU_SOURCE
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
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static atomic_int armed, count;
static int at, error_number;
static char log_path[256], arm_path[256];

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("SWEEP_AT"), *fault = getenv("SWEEP_FAULT");
    at = text ? atoi(text) : 0;
    error_number = fault && !strcmp(fault, "eio") ? EIO : fault && !strcmp(fault, "enospc") ? ENOSPC : 0;
    if ((text = getenv("SWEEP_LOG")))
        snprintf(log_path, sizeof log_path, "%s", text);
    if ((text = getenv("SWEEP_ARM")))
        snprintf(arm_path, sizeof arm_path, "%s", text);
    unsetenv("LD_PRELOAD"); /* for this process alone */
    if (!access(log_path, F_OK))
        arm_path[0] = 0; /* the daemon that came after the one that was broken */
}

static int breaks(const char *name) {
    if (!armed) {
        if (!arm_path[0] || access(arm_path, F_OK))
            return 0;
        armed = 1;
    }
    int number = atomic_fetch_add(&count, 1) + 1;
    char line[64];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int length = snprintf(line, sizeof line, "%d %s %ld.%09ld\n", number, name, (long)now.tv_sec, now.tv_nsec);
    /* Past the C library, whose functions are ours. */
    int handle = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (handle < 0 || syscall(SYS_write, handle, line, length) < 0)
        abort();
    close(handle);
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

static int is_file(int descriptor) {
    struct stat found;
    return !fstat(descriptor, &found) && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode));
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
    return request == 0x40049409UL && breaks("FICLONE") ? -1 : real(d, request, argument);
}

#define OPENS(name, params, types, args, last)                                                                         \
    int name params {                                                                                                  \
        static int(*real) types;                                                                                       \
        if (!real)                                                                                                     \
            real = (int(*) types)dlsym(RTLD_NEXT, #name);                                                              \
        va_list rest;                                                                                                  \
        va_start(rest, last);                                                                                          \
        mode_t m = va_arg(rest, mode_t);                                                                               \
        va_end(rest);                                                                                                  \
        return (f & O_CREAT) && breaks(#name) ? -1 : real args;                                               \
    }

/* Only those that may make a file. */
OPENS(open, (const char *a, int f, ...), (const char *, int, ...), (a, f, m), f)
OPENS(open64, (const char *a, int f, ...), (const char *, int, ...), (a, f, m), f)
OPENS(openat, (int d, const char *a, int f, ...), (int, const char *, int, ...), (d, a, f, m), f)
OPENS(openat64, (int d, const char *a, int f, ...), (int, const char *, int, ...), (d, a, f, m), f)
