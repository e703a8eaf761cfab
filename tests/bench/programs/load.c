/* What benchmark jobs do, with as little cost of their own as there can be.
 *   spawn N              fork + exec + wait of /bin/true, N times: the floor of any batch system
 *   stamp FILE MS        write when it began, wait MS milliseconds, write when it ends (ns since the epoch)
 *   tick PER_S SECONDS   print lines "t <ns since the epoch>", each when it is due
 *   flood BYTES          print that many bytes, 64 KiB at a time
 */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void wait_until(long long due_ns) {
    long long left = due_ns - now_ns();
    if (left > 0) {
        struct timespec t = {left / 1000000000LL, left % 1000000000LL};
        nanosleep(&t, NULL);
    }
}

static int spawn_all(long count) {
    char *argv[] = {"true", NULL}, *envp[] = {NULL};
    for (long i = 0; i < count; i++) {
        pid_t pid;
        int status;
        if (posix_spawn(&pid, "/bin/true", NULL, NULL, argv, envp)) return 1;
        if (waitpid(pid, &status, 0) < 0) return 1;
    }
    return 0;
}

static int stamp(const char *path, long ms) {
    long long begun = now_ns();
    FILE *file = fopen(path, "w");
    if (!file) return 1;
    wait_until(begun + ms * 1000000LL);
    fprintf(file, "%lld %lld\n", begun, now_ns());
    return fclose(file) != 0;
}

static int tick(long per_s, long seconds) {
    long long begun = now_ns(), step = 1000000000LL / per_s;
    for (long i = 0; i < per_s * seconds; i++) {
        char line[40];
        wait_until(begun + i * step);
        int length = snprintf(line, sizeof line, "t %lld\n", now_ns());
        if (write(1, line, length) != length) return 1;
    }
    return 0;
}

static int flood(long long bytes) {
    static char block[65536];
    for (size_t i = 0; i < sizeof block; i++) block[i] = i % 64 == 63 ? '\n' : 'a' + i % 23;
    while (bytes > 0) {
        ssize_t wrote = write(1, block, bytes < (long long)sizeof block ? (size_t)bytes : sizeof block);
        if (wrote <= 0) return 1;
        bytes -= wrote;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "spawn")) return spawn_all(atol(argv[2]));
    if (argc == 4 && !strcmp(argv[1], "stamp")) return stamp(argv[2], atol(argv[3]));
    if (argc == 4 && !strcmp(argv[1], "tick")) return tick(atol(argv[2]), atol(argv[3]));
    if (argc == 3 && !strcmp(argv[1], "flood")) return flood(atoll(argv[2]));
    return 2;
}
