/* Lists the applications that slotd keeps. With the name of one: updates it, and follows the job to its end.
 *
 *     cc -o follow follow.c $(pkg-config --cflags --libs libsystemd)
 *     ./follow [--user] [APP]
 *
 * Exits 0 when the application is as it was asked to be, 4 when it was rolled back, 1 for everything else. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>

#define NAME "org.slotd1"
#define ROOT "/org/slotd1"
#define MANAGER "org.slotd1.Manager"
#define JOB "org.slotd1.Job"

struct job {
        sd_bus *bus;
        const char *path;
        char *result; /* NULL while it goes on */
};

static int fail(const char *what, int r, const sd_bus_error *error) {
        fprintf(stderr, "%s: %s\n", what, error && error->message ? error->message : strerror(-r));
        return r;
}

static int list_apps(sd_bus *bus) {
        sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = NULL;
        const char *name, *version, *state, *available, *mode, *path;
        int r;

        r = sd_bus_call_method(bus, NAME, ROOT, MANAGER, "ListApps", &error, &reply, "");
        if (r < 0)
                fail("ListApps", r, &error);
        else
                r = sd_bus_message_enter_container(reply, 'a', "(ssssso)");
        while (r >= 0 && (r = sd_bus_message_read(reply, "(ssssso)", &name, &version, &state, &available, &mode, &path)) > 0)
                printf("%s %s %s\n", name, *version ? version : "-", state);
        sd_bus_message_unref(reply);
        sd_bus_error_free(&error);
        return r;
}

/* What changed of our job: its step and its progress are for people. */
static int on_properties(sd_bus_message *m, void *userdata, sd_bus_error *unused) {
        struct job *job = userdata;
        const char *interface, *name, *step;
        uint32_t progress;
        int r;

        (void) unused;
        if (strcmp(sd_bus_message_get_path(m), job->path) != 0)
                return 0;
        r = sd_bus_message_read(m, "s", &interface);
        if (r < 0 || strcmp(interface, JOB) != 0)
                return r;
        r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = sd_bus_message_read(m, "s", &name);
                if (r < 0)
                        break;
                if (strcmp(name, "Step") == 0 && (r = sd_bus_message_read(m, "v", "s", &step)) >= 0)
                        printf("step %s\n", step);
                else if (strcmp(name, "Progress") == 0 && (r = sd_bus_message_read(m, "v", "u", &progress)) >= 0)
                        printf("progress %u\n", progress);
                else
                        r = sd_bus_message_skip(m, "v");
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r;
}

/* The last word on a job: its id, path, app, result. The details that follow are not needed here. */
static int on_removed(sd_bus_message *m, void *userdata, sd_bus_error *unused) {
        struct job *job = userdata;
        const char *path, *app, *result;
        uint64_t id;
        int r;

        (void) unused;
        r = sd_bus_message_read(m, "toss", &id, &path, &app, &result);
        if (r >= 0 && strcmp(path, job->path) == 0 && !job->result)
                job->result = strdup(result);
        return r;
}

/* A daemon that was restarted goes on with the job, unless it had ended before: its result tells. */
static int on_owner(sd_bus_message *m, void *userdata, sd_bus_error *unused) {
        struct job *job = userdata;
        const char *name, *before, *after;
        char *result = NULL;
        int r;

        (void) unused;
        r = sd_bus_message_read(m, "sss", &name, &before, &after);
        if (r < 0 || !*after)
                return r;
        r = sd_bus_get_property_string(job->bus, NAME, job->path, JOB, "Result", NULL, &result);
        if (r >= 0 && *result && !job->result)
                job->result = strdup(result);
        free(result);
        return 0;
}

static int follow(sd_bus *bus, const char *app) {
        sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = NULL;
        struct job job = { .bus = bus };
        int r;

        /* Subscribed first, asked then: nothing is missed. What comes before the answer waits in a queue. */
        r = sd_bus_match_signal(bus, NULL, NAME, ROOT, MANAGER, "JobRemoved", on_removed, &job);
        if (r >= 0)
                r = sd_bus_add_match(bus, NULL,
                                     "type='signal',sender='" NAME "',path_namespace='" ROOT "/job',"
                                     "interface='org.freedesktop.DBus.Properties',member='PropertiesChanged'",
                                     on_properties, &job);
        if (r >= 0)
                r = sd_bus_add_match(bus, NULL,
                                     "type='signal',sender='org.freedesktop.DBus',"
                                     "member='NameOwnerChanged',arg0='" NAME "'",
                                     on_owner, &job);
        if (r < 0)
                return fail("cannot subscribe", r, NULL);

        /* sd_bus_call_method_async() and interactive authorization are for programs that people look at. */
        r = sd_bus_call_method(bus, NAME, ROOT, MANAGER, "Update", &error, &reply, "sa{sv}", app, 1, "now", "b", 1);
        if (r >= 0)
                r = sd_bus_message_read(reply, "o", &job.path);
        if (r < 0)
                fail(error.name ? error.name : "Update", r, &error);

        while (r >= 0 && !job.result) {
                r = sd_bus_process(bus, NULL);
                if (r == 0)
                        r = sd_bus_wait(bus, UINT64_MAX);
                if (r < 0)
                        fail("the bus", r, NULL);
        }
        if (r >= 0) {
                printf("result %s\n", job.result);
                if (strcmp(job.result, "rolled-back") == 0)
                        r = 4;
                else
                        r = strcmp(job.result, "updated") == 0 || strcmp(job.result, "unchanged") == 0 ||
                            strcmp(job.result, "up-to-date") == 0 ? 0 : 1;
        }
        free(job.result);
        sd_bus_message_unref(reply);
        sd_bus_error_free(&error);
        return r;
}

int main(int argc, char *argv[]) {
        sd_bus *bus = NULL;
        int user = argc > 1 && strcmp(argv[1], "--user") == 0;
        const char *app = argc > 1 + user ? argv[1 + user] : NULL;
        int r;

        setlinebuf(stdout);
        r = user ? sd_bus_open_user(&bus) : sd_bus_open_system(&bus);
        if (r < 0)
                fail("cannot reach the bus", r, NULL);
        else
                r = app ? follow(bus, app) : list_apps(bus);
        sd_bus_flush_close_unref(bus);
        return r < 0 ? EXIT_FAILURE : r;
}
