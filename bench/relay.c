/* The limit: bursts from one TUN device to another with the same offloads as the engine, and nothing done to
 * them. Arguments: two descriptors of TUN devices with vnet header, blocking or not. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

static char packet[10 + 65536];

static void relay(int from, int to)
{
    for (int n = 0; n < 64; n++) {
        ssize_t size = read(from, packet, sizeof packet);
        if (size <= 0)
            return;
        while (write(to, packet, size) < 0 && errno == EINTR)
            ;
    }
}

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    int left = atoi(arguments[1]), right = atoi(arguments[2]);
    struct pollfd ends[2] = {{left, POLLIN, 0}, {right, POLLIN, 0}};
    while (poll(ends, 2, -1) > 0) {
        if (ends[0].revents)
            relay(left, right);
        if (ends[1].revents)
            relay(right, left);
    }
    return 1;
}
