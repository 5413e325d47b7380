/*
 * A disk that fails, and one whose every step is written down. Preloaded into the daemon, it
 * stands between it and the files whose path begins with DISK_FILES.
 *
 * DISK_FAULT=write:ENOSPC:17 lets the 17th write or truncation fail, half done, once; also
 * open:... and sync:..., with EIO as well. With DISK_SWITCH=FILE all from the 17th on fail for as
 * long as that file is there. KILL in place of an error kills the process there.
 * DISK_FAULTS=FILE is appended a line whenever something failed by this.
 *
 * DISK_TRACE=FILE is appended a record for each creation, write, truncation, sync and removal of
 * the database, its WAL and its journal, and for what is written to standard output, in the order in which
 * they happened: a byte for what it is, a byte for the file, 8 for the offset, 4 for the length
 * of the data that follows, numbers as the machine has them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NONE, DATABASE, WAL, JOURNAL, OTHER, DIRECTORY };

#define MAX_FDS 4096
#define SECTOR 512

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off64_t);
static int (*real_unlink)(const char *);

static const char *files, *switch_file, *faults_file;
static char directory[4096];
static int trace = -1;
static char fault_kind[16], fault_error[16];
static long fault_at, passed;

/* What each descriptor is open on. */
static unsigned char role[MAX_FDS];

/* Held over a step and its record, so that records are in the order of the steps. */
static pthread_mutex_t step = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void)
{
	real_open = dlsym(RTLD_NEXT, "open64");
	real_openat = dlsym(RTLD_NEXT, "openat64");
	real_close = dlsym(RTLD_NEXT, "close");
	real_write = dlsym(RTLD_NEXT, "write");
	real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
	real_fsync = dlsym(RTLD_NEXT, "fsync");
	real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
	real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
	real_unlink = dlsym(RTLD_NEXT, "unlink");
	files = getenv("DISK_FILES");
	switch_file = getenv("DISK_SWITCH");
	faults_file = getenv("DISK_FAULTS");
	if (files == NULL)
		return;
	snprintf(directory, sizeof directory, "%s", files);
	char *slash = strrchr(directory, '/');
	if (slash != NULL)
		*slash = '\0';
	const char *fault = getenv("DISK_FAULT");
	if (fault != NULL && sscanf(fault, "%15[^:]:%15[^:]:%ld", fault_kind, fault_error, &fault_at) != 3)
		abort();
	const char *trace_file = getenv("DISK_TRACE");
	if (trace_file != NULL)
		trace = real_open(trace_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

static int role_of(const char *path)
{
	if (files == NULL || path == NULL)
		return NONE;
	if (strcmp(path, directory) == 0)
		return DIRECTORY;
	size_t length = strlen(files);
	if (strncmp(path, files, length) != 0)
		return NONE;
	if (path[length] == '\0')
		return DATABASE;
	if (strcmp(path + length, "-wal") == 0)
		return WAL;
	return strcmp(path + length, "-journal") == 0 ? JOURNAL : OTHER;
}

static int role_of_fd(int fd)
{
	return fd >= 0 && fd < MAX_FDS ? role[fd] : NONE;
}

static void record(char what, int file, uint64_t offset, const void *data, uint32_t length)
{
	if (trace < 0 || file == OTHER)
		return;
	char head[14];
	head[0] = what;
	head[1] = (char)file;
	memcpy(head + 2, &offset, 8);
	memcpy(head + 10, &length, 4);
	if (real_write(trace, head, sizeof head) != (ssize_t)sizeof head)
		abort();
	if (length > 0 && real_write(trace, data, length) != (ssize_t)length)
		abort();
}

static int is_on(void)
{
	return switch_file != NULL && access(switch_file, F_OK) == 0;
}

/* Whether this one is to fail. Call it with the step held. */
static int fails(const char *kind, int file)
{
	if (file == NONE || file == DIRECTORY || fault_at == 0 || strcmp(kind, fault_kind) != 0)
		return 0;
	passed++;
	if (switch_file == NULL ? passed != fault_at : passed < fault_at || !is_on())
		return 0;
	int saved = errno;
	int fd = real_open(faults_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	char line[128];
	const char *names[] = { "", "database", "wal", "journal", "other", "directory" };
	int length = snprintf(line, sizeof line, "%s %ld %s\n", kind, passed, names[file]);
	if (fd < 0 || real_write(fd, line, (size_t)length) != length)
		abort();
	real_close(fd);
	errno = saved;
	return 1;
}

static int failed(void)
{
	if (strcmp(fault_error, "KILL") == 0) {
		kill(getpid(), SIGKILL);
		for (;;)
			pause();
	}
	errno = strcmp(fault_error, "EIO") == 0 ? EIO : ENOSPC;
	return -1;
}

static int opened(int fd, int file, int created)
{
	if (fd >= 0 && fd < MAX_FDS)
		role[fd] = (unsigned char)file;
	if (fd >= 0 && created)
		record('O', file, 0, NULL, 0);
	return fd;
}

static int open_at(int at, const char *path, int flags, mode_t mode)
{
	int file = role_of(path);
	if (file == NONE)
		return real_openat(at, path, flags, mode);
	pthread_mutex_lock(&step);
	int fd;
	if (fails("open", file)) {
		fd = failed();
	} else {
		int created = (flags & O_CREAT) != 0 && access(path, F_OK) != 0;
		fd = opened(real_openat(at, path, flags, mode), file, created);
	}
	pthread_mutex_unlock(&step);
	return fd;
}

#define MODE(flags) \
	mode_t mode = 0; \
	if ((flags) & (O_CREAT | __O_TMPFILE)) { \
		va_list rest; \
		va_start(rest, flags); \
		mode = va_arg(rest, mode_t); \
		va_end(rest); \
	}

int open(const char *path, int flags, ...)
{
	MODE(flags)
	return open_at(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	MODE(flags)
	return open_at(AT_FDCWD, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...)
{
	MODE(flags)
	return open_at(at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...)
{
	MODE(flags)
	return open_at(at, path, flags, mode);
}

int close(int fd)
{
	if (fd >= 0 && fd < MAX_FDS)
		role[fd] = NONE;
	return real_close(fd);
}

static ssize_t write_at(int fd, int file, const void *data, size_t length, off64_t at)
{
	pthread_mutex_lock(&step);
	ssize_t written;
	if (fails("write", file)) {
		/* Short of the whole, as a disk that fails may leave it; a sector is written or not. */
		off64_t middle = (at + (off64_t)(length / 2)) / SECTOR * SECTOR;
		written = middle > at ? real_pwrite(fd, data, (size_t)(middle - at), at) : 0;
		if (written > 0)
			record('W', file, (uint64_t)at, data, (uint32_t)written);
		written = failed();
	} else {
		written = real_pwrite(fd, data, length, at);
		if (written > 0)
			record('W', file, (uint64_t)at, data, (uint32_t)written);
	}
	pthread_mutex_unlock(&step);
	return written;
}

/* Also where it is a duplicate. */
static int is_stdout(int fd)
{
	struct stat it, stdout_itself;
	return fstat(fd, &it) == 0 && fstat(STDOUT_FILENO, &stdout_itself) == 0 &&
	       it.st_dev == stdout_itself.st_dev && it.st_ino == stdout_itself.st_ino;
}

ssize_t write(int fd, const void *data, size_t length)
{
	int file = role_of_fd(fd);
	if (file == NONE && trace >= 0 && is_stdout(fd)) {
		pthread_mutex_lock(&step);
		ssize_t written = real_write(fd, data, length);
		if (written > 0)
			record('E', NONE, 0, data, (uint32_t)written);
		pthread_mutex_unlock(&step);
		return written;
	}
	if (file == NONE || file == DIRECTORY)
		return real_write(fd, data, length);
	off64_t at = lseek64(fd, 0, SEEK_CUR);
	ssize_t written = write_at(fd, file, data, length, at);
	if (written > 0)
		lseek64(fd, at + written, SEEK_SET);
	return written;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at)
{
	int file = role_of_fd(fd);
	return file == NONE ? real_pwrite(fd, data, length, at) : write_at(fd, file, data, length, at);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at)
{
	return pwrite(fd, data, length, at);
}

static int sync_with(int (*sync)(int), int fd)
{
	int file = role_of_fd(fd);
	if (file == NONE)
		return sync(fd);
	pthread_mutex_lock(&step);
	int done;
	if (fails("sync", file)) {
		done = failed();
		/* What was not synced is given up by the kernel, and a later sync says it is well. */
		record('L', file, 0, NULL, 0);
	} else {
		done = sync(fd);
		if (done == 0)
			record(file == DIRECTORY ? 'D' : 'S', file, 0, NULL, 0);
	}
	pthread_mutex_unlock(&step);
	return done;
}

int fsync(int fd)
{
	return sync_with(real_fsync, fd);
}

int fdatasync(int fd)
{
	return sync_with(real_fdatasync, fd);
}

int ftruncate(int fd, off_t length)
{
	int file = role_of_fd(fd);
	if (file == NONE)
		return real_ftruncate(fd, length);
	pthread_mutex_lock(&step);
	int done;
	if (fails("write", file)) {
		done = failed();
	} else {
		done = real_ftruncate(fd, length);
		if (done == 0)
			record('T', file, (uint64_t)length, NULL, 0);
	}
	pthread_mutex_unlock(&step);
	return done;
}

int ftruncate64(int fd, off64_t length)
{
	return ftruncate(fd, length);
}

int unlink(const char *path)
{
	int file = role_of(path);
	pthread_mutex_lock(&step);
	int done = real_unlink(path);
	if (done == 0 && file != NONE)
		record('U', file, 0, NULL, 0);
	pthread_mutex_unlock(&step);
	return done;
}
