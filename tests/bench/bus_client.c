/* Asks services on the system bus, and says how long they let it wait. Built by bench_bus.py.
 *
 *     bus_client ping NAME PATH INTERFACE PROPERTY  [NAME PATH INTERFACE PROPERTY]...
 *     bus_client read NAME PATH INTERFACE PROPERTY  [NAME PATH INTERFACE PROPERTY]...
 *
 * ping: org.freedesktop.DBus.Peer.Ping to every service each 5 ms, each over a connection of its own; the next one when
 * the last was answered, so that a long pause is one long wait.
 * read: the property, 16 questions at a time; the services take turns of 200 ms, of which one ends when all is answered.
 *
 * Until there is a line on standard input. Then one JSON line for each service: answers, refusals, the seconds it had
 * its turn, and of the waits in seconds the median, the 99.9th percentile, the longest, and when that ended (since the
 * epoch). One that does not answer within 10 s counts as refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <time.h>

enum { SERVICES = 4, AT_ONCE = 16, MOST = 8 * 1000 * 1000 };
static const double PING_S = 0.005, TURN_S = 0.2;
static const uint64_t DEADLINE_US = 10 * 1000 * 1000;
static double began;

typedef struct {
    char *name, *path, *interface, *property;
    sd_bus *bus;
    unsigned waiting;
    double due, seconds, longest, longest_at;
    float *waits;
    size_t count, refused;
} Service;

typedef struct {
    Service *service;
    double asked;
} Question;

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static void check(int r, const char *what) {
    if (r >= 0)
        return;
    fprintf(stderr, "cannot %s: %s\n", what, strerror(-r));
    exit(1);
}

static int on_answer(sd_bus_message *answer, void *data, sd_bus_error *error) {
    Question *question = data;
    Service *service = question->service;
    double wait = now(CLOCK_MONOTONIC) - question->asked;
    (void) error;
    free(question);
    service->waiting--;
    if (sd_bus_message_is_method_error(answer, NULL))
        service->refused++;
    else if (service->count < MOST)
        service->waits[service->count++] = (float) wait;
    if (wait > service->longest) {
        service->longest = wait;
        service->longest_at = now(CLOCK_REALTIME);
    }
    return 0;
}

static void ask(Service *service, bool is_read) {
    sd_bus_message *message = NULL;
    Question *question = malloc(sizeof *question);
    if (!question)
        check(-ENOMEM, "ask");
    *question = (Question){service, now(CLOCK_MONOTONIC)};
    const char *standard = is_read ? "org.freedesktop.DBus.Properties" : "org.freedesktop.DBus.Peer";
    check(sd_bus_message_new_method_call(service->bus, &message, service->name, service->path, standard,
                                         is_read ? "Get" : "Ping"), "make a call");
    if (is_read)
        check(sd_bus_message_append(message, "ss", service->interface, service->property), "make a call");
    check(sd_bus_call_async(service->bus, NULL, message, on_answer, question, DEADLINE_US), "call");
    sd_bus_message_unref(message);
    service->waiting++;
}

/* Waits for answers of all until a moment, and deals with them. */
static void serve(Service *services, size_t count, double until) {
    struct pollfd fds[SERVICES];
    for (size_t i = 0; i < count; i++) {
        int r;
        while ((r = sd_bus_process(services[i].bus, NULL)) > 0)
            ;
        check(r, "read answers");
        fds[i] = (struct pollfd){.fd = sd_bus_get_fd(services[i].bus),
                                 .events = (short) sd_bus_get_events(services[i].bus)};
    }
    double left = until - now(CLOCK_MONOTONIC);
    struct timespec wait = {0, left > 0 ? (long) (left * 1e9) : 0};
    ppoll(fds, count, &wait, NULL);
}

static void ping(Service *services, size_t count) {
    double moment = now(CLOCK_MONOTONIC), next = moment + PING_S;
    for (size_t i = 0; i < count; i++) {
        Service *one = services + i;
        if (!one->waiting && one->due <= moment) {
            ask(one, false);
            one->due = moment + PING_S;
        }
        if (!one->waiting && one->due < next)
            next = one->due;
        one->seconds = moment - began;
    }
    serve(services, count, next);
}

static void read_for_a_turn(Service *service) {
    double turn_began = now(CLOCK_MONOTONIC);
    do {
        bool is_over = now(CLOCK_MONOTONIC) - turn_began > TURN_S;
        while (!is_over && service->waiting < AT_ONCE)
            ask(service, true);
        if (service->waiting)
            serve(service, 1, now(CLOCK_MONOTONIC) + 0.01);
    } while (service->waiting);
    service->seconds += now(CLOCK_MONOTONIC) - turn_began;
}

static int by_size(const void *a, const void *b) {
    float left = *(const float *) a, right = *(const float *) b;
    return (left > right) - (left < right);
}

int main(int argc, char **argv) {
    size_t count = (size_t) (argc - 2) / 4;
    Service services[SERVICES] = {0};
    bool is_read = argc > 1 && !strcmp(argv[1], "read");
    if (argc < 6 || (argc - 2) % 4 || count > SERVICES) {
        fprintf(stderr, "usage: %s ping|read NAME PATH INTERFACE PROPERTY...\n", argv[0]);
        return 2;
    }
    for (size_t i = 0; i < count; i++) {
        char **words = argv + 2 + i * 4;
        services[i].name = words[0], services[i].path = words[1];
        services[i].interface = words[2], services[i].property = words[3];
        services[i].waits = malloc(MOST * sizeof(float));  // untouched pages cost nothing
        if (!services[i].waits)
            check(-ENOMEM, "start");
        check(sd_bus_open_system(&services[i].bus), "reach the system bus");
    }
    began = now(CLOCK_MONOTONIC);
    puts("running");
    fflush(stdout);
    struct pollfd end = {.fd = 0, .events = POLLIN};
    for (size_t turn = 0; poll(&end, 1, 0) == 0; turn++) {
        if (is_read)
            read_for_a_turn(services + turn % count);
        else
            ping(services, count);
    }
    for (size_t i = 0; i < count; i++) {
        Service *one = services + i;
        qsort(one->waits, one->count, sizeof(float), by_size);
        float median = one->count ? one->waits[one->count / 2] : 0;
        float high = one->count ? one->waits[(size_t) ((double) one->count * 0.999)] : 0;
        printf("{\"name\": \"%s\", \"answers\": %zu, \"refused\": %zu, \"seconds\": %f, \"median_s\": %f, "
               "\"high_s\": %f, \"longest_s\": %f, \"longest_at\": %f}\n",
               one->name, one->count, one->refused, one->seconds, median, high, one->longest, one->longest_at);
    }
    return 0;
}
