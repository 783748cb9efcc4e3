/* A library to preload into a process under test: it records what the process does to files below one directory, and makes
 * chosen calls fail, fall short or take long. Built by the tests with the system's C compiler:
 *     cc -shared -fPIC -O1 -o faults.so faults.c -ldl -lpthread
 *
 * CORACLE_FAULT_PREFIX   only paths that begin with this are looked at (required)
 * CORACLE_FAULT          what to do, words separated by blanks:
 *       call=NAME[,NAME]  open write fsync fdatasync rename unlink ftruncate fallocate mkdir read, or any (all but read);
 *                         write covers write, writev, pwrite and pwritev; what else is not named is left alone
 *       nth=N             the first call to act on, counted from 1 (default 1)
 *       times=N           how many calls from there on (default 1, 0 = all)
 *       errno=EIO|ENOSPC|EDQUOT|EROFS|number, or errno=SHORT: a write of half the bytes (default: no error)
 *       delay_ms=N        each call acted on takes so much longer
 *       path=TEXT         only paths that contain TEXT
 * CORACLE_FAULT_CONTROL  a file with the same words, looked at before each call: switches faults on and off while the
 *                        process runs; counting begins anew when its content changes; a missing or empty one is no fault
 * CORACLE_FAULT_REPORT   a file that gets one line "fired NAME N PATH" per call acted on
 * CORACLE_FAULT_TRACE    a file that gets a binary record of each change, see `struct event`
 *
 * Files whose name is ACKS are recorded and never made to fail: there the process says what it promised to whom.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum call { OPEN, WRITE, FSYNC, FDATASYNC, RENAME, UNLINK, FTRUNCATE, FALLOCATE, MKDIR, READ, CALLS };
static const char *const names[CALLS] = {"open", "write", "fsync", "fdatasync", "rename",
                                         "unlink", "ftruncate", "fallocate", "mkdir", "read"};

enum kind { CREATED = 1, SIZED, WRITTEN, SYNCED, DIR_SYNCED, RENAMED, UNLINKED, MADE_DIR, RESERVED, REMOVED_DIR };

/* All numbers little-endian as the machine has them; followed by both paths and the data. */
struct event {
    uint32_t kind, path_len, path2_len, pad;
    uint64_t ino, offset, len, data_len;
};

struct plan {
    unsigned calls;
    long nth, times, delay_ms;
    int error, shorten;
    char path[256];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char prefix[PATH_MAX], control[PATH_MAX], report[PATH_MAX];
static size_t prefix_len;
static int trace_fd = -1;
static struct plan plan;
static char words[1024];
static long counted;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_rmdir)(const char *);
static int (*real_mkdir)(const char *, mode_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);

static void parse(const char *text) {
    char copy[sizeof words], *save = NULL;
    memset(&plan, 0, sizeof plan);
    plan.nth = plan.times = 1;
    snprintf(copy, sizeof copy, "%s", text);
    for (char *w = strtok_r(copy, " \t\n", &save); w; w = strtok_r(NULL, " \t\n", &save)) {
        char *v = strchr(w, '=');
        if (!v) continue;
        *v++ = 0;
        if (!strcmp(w, "nth")) plan.nth = atol(v);
        else if (!strcmp(w, "times")) plan.times = atol(v);
        else if (!strcmp(w, "delay_ms")) plan.delay_ms = atol(v);
        else if (!strcmp(w, "path")) snprintf(plan.path, sizeof plan.path, "%s", v);
        else if (!strcmp(w, "errno")) {
            if (!strcmp(v, "SHORT")) plan.shorten = 1;
            else if (!strcmp(v, "EIO")) plan.error = EIO;
            else if (!strcmp(v, "ENOSPC")) plan.error = ENOSPC;
            else if (!strcmp(v, "EDQUOT")) plan.error = EDQUOT;
            else if (!strcmp(v, "EROFS")) plan.error = EROFS;
            else plan.error = atoi(v);
        } else if (!strcmp(w, "call")) {
            char *inner = NULL;
            for (char *c = strtok_r(v, ",", &inner); c; c = strtok_r(NULL, ",", &inner)) {
                if (!strcmp(c, "any")) plan.calls |= ((1u << CALLS) - 1) & ~(1u << READ);
                for (int i = 0; i < CALLS; i++)
                    if (!strcmp(c, names[i])) plan.calls |= 1u << i;
            }
        }
    }
}

#define REAL(name) (*(void **)&real_##name = dlsym(RTLD_NEXT, #name))
__attribute__((constructor)) static void begin(void) {
    REAL(open); REAL(openat); REAL(write); REAL(writev); REAL(pwrite); REAL(pwritev); REAL(read); REAL(pread);
    REAL(fsync); REAL(fdatasync); REAL(rename); REAL(unlink); REAL(unlinkat); REAL(rmdir); REAL(mkdir);
    REAL(ftruncate); REAL(fallocate);
    const char *v;
    if ((v = getenv("CORACLE_FAULT_PREFIX"))) snprintf(prefix, sizeof prefix, "%s", v);
    prefix_len = strlen(prefix);
    if ((v = getenv("CORACLE_FAULT_CONTROL"))) snprintf(control, sizeof control, "%s", v);
    if ((v = getenv("CORACLE_FAULT_REPORT"))) snprintf(report, sizeof report, "%s", v);
    if ((v = getenv("CORACLE_FAULT"))) parse(v);
    if ((v = getenv("CORACLE_FAULT_TRACE")))
        trace_fd = syscall(SYS_openat, AT_FDCWD, v, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int ours(const char *path) { return prefix_len && !strncmp(path, prefix, prefix_len); }

static int acks(const char *path) {
    size_t n = strlen(path);
    return n >= 5 && !strcmp(path + n - 5, "/ACKS");
}

/* The path of a descriptor, if it is ours. */
static int path_of(int fd, char *path) {
    char link[64];
    if (!prefix_len || fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return ours(path);
}

static void absolute(int dir, const char *path, char *out) {
    char base[PATH_MAX];
    if (path[0] == '/') { snprintf(out, PATH_MAX, "%s", path); return; }
    char link[64];
    ssize_t n;
    if (dir == AT_FDCWD) n = getcwd(base, sizeof base) ? (ssize_t)strlen(base) : 0;
    else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        n = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
    }
    base[n > 0 ? n : 0] = 0;
    if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) out[0] = 0;
}

static void look_at_control(void) {
    char now[sizeof words];
    ssize_t n = -1;
    int fd = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        n = syscall(SYS_read, fd, now, sizeof now - 1);
        syscall(SYS_close, fd);
    }
    now[n > 0 ? n : 0] = 0;
    if (strcmp(now, words)) {
        strcpy(words, now);
        parse(now);
        counted = 0;
    }
}

/* Called with the lock held, before a call. Returns the error to answer with, 0 for none; may shorten a write. */
static int fault(enum call call, const char *path, size_t *len) {
    if (acks(path)) return 0;
    if (control[0]) look_at_control();
    if (!(plan.calls & (1u << call)) || !strstr(path, plan.path)) return 0;
    counted++;
    if (counted < plan.nth || (plan.times && counted >= plan.nth + plan.times)) return 0;
    if (report[0]) {
        char line[PATH_MAX + 64];
        int n = snprintf(line, sizeof line, "fired %s %ld %s\n", names[call], counted, path);
        int fd = syscall(SYS_openat, AT_FDCWD, report, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd >= 0) {
            syscall(SYS_write, fd, line, (size_t)n);
            syscall(SYS_close, fd);
        }
    }
    if (plan.delay_ms) {
        struct timespec t = {plan.delay_ms / 1000, plan.delay_ms % 1000 * 1000000};
        /* A slow disk holds up who waits for it, nobody else. */
        pthread_mutex_unlock(&lock);
        nanosleep(&t, NULL);
        pthread_mutex_lock(&lock);
    }
    if (plan.shorten && len && *len >= 1024) *len = *len / 2 / 512 * 512;
    return plan.error;
}

static void record(enum kind kind, const char *path, const char *path2, uint64_t ino, uint64_t offset, uint64_t len,
                   const void *data, size_t data_len) {
    if (trace_fd < 0) return;
    struct event e = {kind, strlen(path), path2 ? strlen(path2) : 0, 0, ino, offset, len, data_len};
    struct iovec v[4] = {{&e, sizeof e}, {(void *)path, e.path_len}, {(void *)path2, e.path2_len}, {(void *)data, data_len}};
    size_t want = sizeof e + e.path_len + e.path2_len + data_len;
    if (syscall(SYS_writev, trace_fd, v, 4) != (long)want) abort();
}

static uint64_t ino_of(int fd) {
    struct stat s;
    return fstat(fd, &s) ? 0 : s.st_ino;
}

static int opened(int dir, const char *given, int flags, mode_t mode) {
    char path[PATH_MAX];
    absolute(dir, given, path);
    if (!ours(path)) return real_openat(dir, given, flags, mode);
    pthread_mutex_lock(&lock);
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
    int error = writes ? fault(OPEN, path, NULL) : fault(READ, path, NULL);
    int fd = -1;
    if (error) errno = error;
    else {
        struct stat before;
        int there = !fstatat(AT_FDCWD, path, &before, 0);
        fd = real_openat(dir, given, flags, mode);
        if (fd >= 0 && !there && (flags & O_CREAT)) record(CREATED, path, NULL, ino_of(fd), 0, 0, NULL, 0);
        else if (fd >= 0 && there && (flags & O_TRUNC)) record(SIZED, path, NULL, ino_of(fd), 0, 0, NULL, 0);
    }
    int e = errno;
    pthread_mutex_unlock(&lock);
    errno = e;
    return fd;
}

#define OPEN_MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); }
int open(const char *path, int flags, ...) { OPEN_MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPEN_MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { OPEN_MODE return opened(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { OPEN_MODE return opened(dir, path, flags, mode); }

/* One write of any kind; `at` < 0: where the descriptor stands. */
static ssize_t wrote(int fd, const char *path, const struct iovec *v, int n, off_t at) {
    size_t len = 0;
    for (int i = 0; i < n; i++) len += v[i].iov_len;
    pthread_mutex_lock(&lock);
    size_t allowed = len;
    int error = fault(WRITE, path, &allowed);
    ssize_t done = -1;
    if (error) errno = error;
    else {
        const char *data = v[0].iov_base;
        char *gathered = NULL;
        if (n > 1) {
            data = gathered = malloc(len ? len : 1);
            size_t k = 0;
            for (int i = 0; i < n; i++) { memcpy(gathered + k, v[i].iov_base, v[i].iov_len); k += v[i].iov_len; }
        }
        int flags = fcntl(fd, F_GETFL);
        off_t from = at;
        struct stat s;
        if (at < 0) from = (flags & O_APPEND) && !fstat(fd, &s) ? s.st_size : lseek(fd, 0, SEEK_CUR);
        done = at < 0 ? real_write(fd, data, allowed) : real_pwrite(fd, data, allowed, at);
        if (done > 0) {
            record(WRITTEN, path, NULL, ino_of(fd), from, done, data, done);
            if (flags & O_DSYNC) record(SYNCED, path, NULL, ino_of(fd), 0, 0, NULL, 0);
        }
        int e = errno;
        free(gathered);
        errno = e;
    }
    int e = errno;
    pthread_mutex_unlock(&lock);
    errno = e;
    return done;
}

ssize_t write(int fd, const void *data, size_t len) {
    char path[PATH_MAX];
    struct iovec v = {(void *)data, len};
    return path_of(fd, path) ? wrote(fd, path, &v, 1, -1) : real_write(fd, data, len);
}
ssize_t writev(int fd, const struct iovec *v, int n) {
    char path[PATH_MAX];
    return path_of(fd, path) ? wrote(fd, path, v, n, -1) : real_writev(fd, v, n);
}
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) {
    char path[PATH_MAX];
    struct iovec v = {(void *)data, len};
    return path_of(fd, path) ? wrote(fd, path, &v, 1, at) : real_pwrite(fd, data, len, at);
}
ssize_t pwrite64(int fd, const void *data, size_t len, off_t at) { return pwrite(fd, data, len, at); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) {
    char path[PATH_MAX];
    return path_of(fd, path) ? wrote(fd, path, v, n, at) : real_pwritev(fd, v, n, at);
}
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t at) { return pwritev(fd, v, n, at); }

static int may_read(int fd) {
    char path[PATH_MAX];
    if (!(plan.calls & (1u << READ)) && !control[0]) return 1;
    if (!path_of(fd, path)) return 1;
    pthread_mutex_lock(&lock);
    int error = fault(READ, path, NULL);
    pthread_mutex_unlock(&lock);
    errno = error;
    return !error;
}
ssize_t read(int fd, void *data, size_t len) { return may_read(fd) ? real_read(fd, data, len) : -1; }
ssize_t pread(int fd, void *data, size_t len, off_t at) { return may_read(fd) ? real_pread(fd, data, len, at) : -1; }
ssize_t pread64(int fd, void *data, size_t len, off_t at) { return pread(fd, data, len, at); }

static int sync_with(int fd, enum call call, int (*real)(int)) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd);
    pthread_mutex_lock(&lock);
    int result = -1, error = fault(call, path, NULL);
    if (error) errno = error;
    else if (!(result = real(fd))) {
        struct stat s;
        if (!fstat(fd, &s)) record(S_ISDIR(s.st_mode) ? DIR_SYNCED : SYNCED, path, NULL, s.st_ino, 0, 0, NULL, 0);
    }
    int e = errno;
    pthread_mutex_unlock(&lock);
    errno = e;
    return result;
}
int fsync(int fd) { return sync_with(fd, FSYNC, real_fsync); }
int fdatasync(int fd) { return sync_with(fd, FDATASYNC, real_fdatasync); }

#define CHANGE(call, path, real, kind, path2)                    \
    pthread_mutex_lock(&lock);                                   \
    int result = -1, error = fault(call, path, NULL);            \
    if (error) errno = error;                                    \
    else if (!(result = real)) record(kind, path, path2, 0, 0, 0, NULL, 0); \
    int e = errno;                                               \
    pthread_mutex_unlock(&lock);                                 \
    errno = e;                                                   \
    return result;

int rename(const char *from, const char *to) {
    char a[PATH_MAX], b[PATH_MAX];
    absolute(AT_FDCWD, from, a);
    absolute(AT_FDCWD, to, b);
    if (!ours(a) && !ours(b)) return real_rename(from, to);
    CHANGE(RENAME, a, real_rename(from, to), RENAMED, b)
}
int unlink(const char *given) {
    char path[PATH_MAX];
    absolute(AT_FDCWD, given, path);
    if (!ours(path)) return real_unlink(given);
    CHANGE(UNLINK, path, real_unlink(given), UNLINKED, NULL)
}
int unlinkat(int dir, const char *given, int flags) {
    char path[PATH_MAX];
    absolute(dir, given, path);
    if (!ours(path)) return real_unlinkat(dir, given, flags);
    CHANGE(UNLINK, path, real_unlinkat(dir, given, flags), (flags & AT_REMOVEDIR) ? REMOVED_DIR : UNLINKED, NULL)
}
int rmdir(const char *given) {
    char path[PATH_MAX];
    absolute(AT_FDCWD, given, path);
    if (!ours(path)) return real_rmdir(given);
    CHANGE(UNLINK, path, real_rmdir(given), REMOVED_DIR, NULL)
}
int mkdir(const char *given, mode_t mode) {
    char path[PATH_MAX];
    absolute(AT_FDCWD, given, path);
    if (!ours(path)) return real_mkdir(given, mode);
    CHANGE(MKDIR, path, real_mkdir(given, mode), MADE_DIR, NULL)
}
int ftruncate(int fd, off_t len) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real_ftruncate(fd, len);
    pthread_mutex_lock(&lock);
    int result = -1, error = fault(FTRUNCATE, path, NULL);
    if (error) errno = error;
    else if (!(result = real_ftruncate(fd, len))) record(SIZED, path, NULL, ino_of(fd), 0, len, NULL, 0);
    int e = errno;
    pthread_mutex_unlock(&lock);
    errno = e;
    return result;
}
int ftruncate64(int fd, off_t len) { return ftruncate(fd, len); }
int fallocate(int fd, int mode, off_t at, off_t len) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real_fallocate(fd, mode, at, len);
    pthread_mutex_lock(&lock);
    int result = -1, error = fault(FALLOCATE, path, NULL);
    if (error) errno = error;
    else if (!(result = real_fallocate(fd, mode, at, len))) record(RESERVED, path, NULL, ino_of(fd), 0, at + len, NULL, 0);
    int e = errno;
    pthread_mutex_unlock(&lock);
    errno = e;
    return result;
}
int fallocate64(int fd, int mode, off_t at, off_t len) { return fallocate(fd, mode, at, len); }
