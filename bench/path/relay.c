// SPDX-License-Identifier: Apache-2.0
/*
 * A relay in user space, to measure Earshot beside: small, and as fast as plain sockets go without tricks.
 *
 * One thread per CPU, pinned to it. Each has a socket at the VIP and one at the relay address, which share address
 * and port with those of the other threads (SO_REUSEPORT: the kernel gives a flow to one of them by its hash).
 * It waits with epoll, takes up to 64 packets with recvmmsg, finds the flow of each in a hash table by
 * where the packet came from, and hands all of them on with sendmmsg by its other socket.
 *
 * What it does as Earshot does: from a client to the VIP goes to the transceiver of its flow, from the
 * relay address; what the transceiver answers goes to the client, from the VIP. The first byte must be one
 * of STUN, DTLS or RTP (RFC 7983), packets and bytes are counted by flow and direction, and what belongs to
 * no flow is dropped and counted.
 *
 * What it does not do: it has one relay port, not one for each flow (50,000 sockets would make it slower).
 * So a flow's way back is known by the transceiver's address and port, which must differ from flow to
 * flow. It binds no flows: all are entered at the start, as bench/tables.py does for Earshot. It sends
 * at once and does not retry: what a full socket refuses is dropped and counted.
 *
 *   relay VIP PORT RELAY PORT CLIENT PORT MASK TRANSCEIVER PORT MASK FLOWS
 *
 * Flow n is of the client at address CLIENT + n, port PORT + (n & MASK), and of the transceiver at address
 * TRANSCEIVER + (n & 63), port PORT + (n & MASK). Says "event=ready" once it forwards; ends at SIGTERM.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define PACKET_MAX 2048
#define SOCKET_BYTES (8 << 20)
#define THREADS_MAX 64
#define TRANSCEIVERS 64

enum side { CLIENTS, TRANSCEIVER_SIDE, SIDES };

/* IPv4 as IPv4-mapped, so that one table holds both families. */
struct endpoint {
	uint8_t address[16];
	in_port_t port; /* big-endian */
};

struct flow {
	struct endpoint peer[SIDES];
	uint64_t packets[SIDES]; /* from each side; plain, like Earshot's */
	uint64_t bytes[SIDES];
} __attribute__((aligned(64)));

/* Open addressing, at most half full; 0: empty, else the number of a flow and one. */
struct table {
	uint32_t *slots;
	uint32_t mask;
};

static struct flow *flows;
static struct table tables[SIDES];
static struct endpoint local[SIDES];
static int family;

struct worker {
	pthread_t thread;
	int cpu;
	int sockets[SIDES];
	uint64_t dropped; /* no flow, no media, or a full socket */
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint32_t hash(const struct endpoint *e)
{
	uint64_t high, low;

	memcpy(&high, e->address, 8);
	memcpy(&low, e->address + 8, 8);
	high = (high ^ e->port) * 0x9e3779b97f4a7c15ull;
	low = (low ^ (high >> 32)) * 0xc2b2ae3d27d4eb4full;
	return (low ^ high) >> 32;
}

static int same(const struct endpoint *a, const struct endpoint *b)
{
	return a->port == b->port && !memcmp(a->address, b->address, sizeof(a->address));
}

static void enter(enum side side, uint32_t number)
{
	struct table *table = &tables[side];
	uint32_t at = hash(&flows[number].peer[side]);

	while (table->slots[at & table->mask])
		at++;
	table->slots[at & table->mask] = number + 1;
}

static struct flow *find(enum side side, const struct endpoint *from)
{
	const struct table *table = &tables[side];
	uint32_t at = hash(from), found;

	while ((found = table->slots[at & table->mask])) {
		if (same(&flows[found - 1].peer[side], from))
			return &flows[found - 1];
		at++;
	}
	return NULL;
}

static socklen_t to_sockaddr(struct sockaddr_storage *to, const struct endpoint *from)
{
	memset(to, 0, sizeof(struct sockaddr_in6));
	if (family == AF_INET) {
		struct sockaddr_in *in = (void *)to;

		in->sin_family = AF_INET;
		in->sin_port = from->port;
		memcpy(&in->sin_addr, from->address + 12, 4);
		return sizeof(*in);
	}
	struct sockaddr_in6 *in6 = (void *)to;

	in6->sin6_family = AF_INET6;
	in6->sin6_port = from->port;
	memcpy(&in6->sin6_addr, from->address, 16);
	return sizeof(*in6);
}

static void from_sockaddr(struct endpoint *to, const struct sockaddr_storage *from)
{
	if (from->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)from;

		memset(to->address, 0, 10);
		memset(to->address + 10, 0xff, 2);
		memcpy(to->address + 12, &in->sin_addr, 4);
		to->port = in->sin_port;
	} else {
		const struct sockaddr_in6 *in6 = (const void *)from;

		memcpy(to->address, &in6->sin6_addr, 16);
		to->port = in6->sin6_port;
	}
}

static int is_rtc(uint8_t first)
{
	return first <= 3 || (first >= 20 && first <= 63) || (first >= 128 && first <= 191);
}

/* Takes what one socket has, up to a batch, and sends it on by the other. */
static void forward(struct worker *worker, enum side from)
{
	static __thread uint8_t packets[BATCH][PACKET_MAX];
	struct sockaddr_storage names[BATCH], to[BATCH];
	struct mmsghdr in[BATCH], out[BATCH];
	struct iovec parts[BATCH], sent_parts[BATCH];
	enum side other = from == CLIENTS ? TRANSCEIVER_SIDE : CLIENTS;
	int i, count, ready = 0, sent;

	for (i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ packets[i], PACKET_MAX };
		in[i].msg_hdr = (struct msghdr){
			.msg_name = &names[i],
			.msg_namelen = sizeof(names[i]),
			.msg_iov = &parts[i],
			.msg_iovlen = 1,
		};
	}
	count = recvmmsg(worker->sockets[from], in, BATCH, MSG_DONTWAIT, NULL);
	for (i = 0; i < count; i++) {
		struct endpoint source;
		struct flow *flow;

		from_sockaddr(&source, &names[i]);
		flow = in[i].msg_len && is_rtc(packets[i][0]) ? find(from, &source) : NULL;
		if (!flow) {
			worker->dropped++;
			continue;
		}
		flow->packets[from]++;
		flow->bytes[from] += in[i].msg_len;
		sent_parts[ready] = (struct iovec){ packets[i], in[i].msg_len };
		out[ready].msg_hdr = (struct msghdr){
			.msg_name = &to[ready],
			.msg_namelen = to_sockaddr(&to[ready], &flow->peer[other]),
			.msg_iov = &sent_parts[ready],
			.msg_iovlen = 1,
		};
		ready++;
	}
	for (i = 0; i < ready; i += sent) {
		sent = sendmmsg(worker->sockets[other], out + i, ready - i, MSG_DONTWAIT);
		if (sent <= 0) { /* the first of them failed */
			worker->dropped++;
			sent = 1;
		}
	}
}

static int open_socket(const struct endpoint *at)
{
	struct sockaddr_storage name;
	socklen_t length = to_sockaddr(&name, at);
	int fd = socket(family, SOCK_DGRAM, 0), one = 1, bytes = SOCKET_BYTES;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) ||
	    bind(fd, (void *)&name, length))
		die("socket");
	return fd;
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct epoll_event events[SIDES];
	int side, i, count, poll = epoll_create1(0);
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(worker->cpu, &cpus);
	if (poll < 0 || pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus))
		die("thread");
	for (side = 0; side < SIDES; side++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = side };

		if (epoll_ctl(poll, EPOLL_CTL_ADD, worker->sockets[side], &event))
			die("epoll_ctl");
	}
	for (;;) {
		count = epoll_wait(poll, events, SIDES, -1);
		if (count < 0 && errno != EINTR)
			die("epoll_wait");
		for (i = 0; i < count; i++)
			forward(worker, events[i].data.u32);
	}
	return NULL;
}

static struct endpoint endpoint_of(const char *address, const char *port)
{
	struct endpoint made = { .port = htons(atoi(port)) };

	if (inet_pton(AF_INET6, address, made.address) == 1) {
		family = AF_INET6;
		return made;
	}
	memset(made.address + 10, 0xff, 2);
	if (inet_pton(AF_INET, address, made.address + 12) != 1) {
		fprintf(stderr, "no address: %s\n", address);
		exit(2);
	}
	family = AF_INET;
	return made;
}

static struct endpoint counted(struct endpoint base, uint32_t address, uint16_t port)
{
	uint32_t last;

	memcpy(&last, base.address + 12, 4);
	last = htonl(ntohl(last) + address);
	memcpy(base.address + 12, &last, 4);
	base.port = htons(ntohs(base.port) + port);
	return base;
}

static void enter_flows(char **argv, uint32_t count)
{
	struct endpoint client = endpoint_of(argv[0], argv[1]), transceiver = endpoint_of(argv[3], argv[4]);
	uint16_t client_mask = atoi(argv[2]), transceiver_mask = atoi(argv[5]);
	uint32_t slots = 2, number;
	int side;

	while (slots < 2 * count)
		slots *= 2;
	flows = aligned_alloc(64, count * sizeof(*flows));
	if (!flows)
		die("flows");
	memset(flows, 0, count * sizeof(*flows));
	for (side = 0; side < SIDES; side++) {
		tables[side].slots = calloc(slots, sizeof(uint32_t));
		tables[side].mask = slots - 1;
		if (!tables[side].slots)
			die("table");
	}
	for (number = 0; number < count; number++) {
		flows[number].peer[CLIENTS] = counted(client, number, number & client_mask);
		flows[number].peer[TRANSCEIVER_SIDE] =
			counted(transceiver, number % TRANSCEIVERS, number & transceiver_mask);
		for (side = 0; side < SIDES; side++)
			enter(side, number);
	}
}

int main(int argc, char **argv)
{
	static struct worker workers[THREADS_MAX];
	int threads = sysconf(_SC_NPROCESSORS_ONLN), i, side;

	if (argc != 12) {
		fprintf(stderr, "see the head of relay.c\n");
		return 2;
	}
	local[CLIENTS] = endpoint_of(argv[1], argv[2]);
	local[TRANSCEIVER_SIDE] = endpoint_of(argv[3], argv[4]);
	enter_flows(argv + 5, strtoul(argv[11], NULL, 10));
	if (threads > THREADS_MAX)
		threads = THREADS_MAX;
	for (i = 0; i < threads; i++) {
		workers[i].cpu = i;
		for (side = 0; side < SIDES; side++)
			workers[i].sockets[side] = open_socket(&local[side]);
	}
	for (i = 0; i < threads; i++)
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			die("pthread_create");
	puts("event=ready");
	fflush(stdout);
	for (i = 0; i < threads; i++)
		pthread_join(workers[i].thread, NULL);
	return 0;
}
