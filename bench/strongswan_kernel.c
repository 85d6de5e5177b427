/* strongSwan's own kernel-netlink plugin, driven without IKE: installs N pairs of SAs with their policies as
 * a CHILD_SA does (an SPI, both SAs, three policies), and says how many seconds that took.
 *
 *   cc -O2 -o strongswan_kernel strongswan_kernel.c -L/usr/lib/ipsec -lcharon -lstrongswan
 *   strongswan_kernel N LOCAL REMOTE
 *
 * Debian has no headers of these libraries: what is used of them stands here as in version 5.9.8
 * (src/libcharon/kernel, src/libstrongswan/library.h). */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { uint8_t *ptr; size_t len; } chunk_t;
typedef struct { uint32_t value, mask; } mark_t;
typedef struct { uint64_t life, rekey, jitter; } limits_t;
typedef struct { limits_t time, bytes, packets; } lifetime_t;
typedef struct { void *src, *dst; uint32_t spi; uint8_t proto; mark_t mark; uint32_t if_id; } sa_id_t;
typedef struct {
	uint32_t reqid;
	int mode;
	void *src_ts, *dst_ts;
	char *interface;
	lifetime_t *lifetime;
	uint16_t enc_alg;
	chunk_t enc_key;
	uint16_t int_alg;
	chunk_t int_key;
	uint32_t replay_window, tfc;
	uint16_t ipcomp, cpi;
	bool encap;
	int hw_offload;
	mark_t mark;
	void *label;
	bool esn, copy_df, copy_ecn;
	int copy_dscp;
	bool initiator, inbound, update;
} add_sa_t;
typedef struct { int dir; void *src_ts, *dst_ts; mark_t mark; uint32_t if_id; char *interface; void *label; } policy_id_t;
typedef struct {
	int mode;
	uint32_t reqid, policy_count;
	struct { bool use; uint32_t spi; } esp, ah;
	struct { uint16_t transform, cpi; } ipcomp;
} sa_cfg_t;
typedef struct { int type, prio; uint32_t manual_prio; void *src, *dst; sa_cfg_t *sa; } policy_t;
typedef struct kernel kernel_t;
struct kernel {
	void *get_features;
	int (*get_spi)(kernel_t *, void *src, void *dst, uint8_t protocol, uint32_t *spi);
	void *get_cpi, *alloc_reqid, *release_reqid;
	int (*add_sa)(kernel_t *, sa_id_t *, add_sa_t *);
	void *update_sa, *query_sa, *del_sa, *flush_sas;
	int (*add_policy)(kernel_t *, policy_id_t *, policy_t *);
};
typedef struct loader loader_t;
struct loader { void *add_static_features; bool (*load)(loader_t *, char *list); };
typedef struct {
	void *get, *set;
	const char *ns;
	char *conf;
	void *printf_hook, *proposal, *caps, *crypto, *creds, *credmgr, *encoding, *metadata, *fetcher, *resolver, *db;
	loader_t *plugins;
} library_t;
typedef struct { void *socket; kernel_t *kernel; } charon_t;

extern library_t *lib;
extern charon_t *charon;
extern bool library_init(char *settings, const char *namespace);
extern bool libcharon_init(void);
extern void *host_create_from_string(char *string, uint16_t port);
extern void *traffic_selector_create_from_cidr(char *string, uint8_t protocol, uint16_t from, uint16_t to);
extern void *linked_list_create(void);

static void check(int status, const char *what)
{
	if (status)
	{
		fprintf(stderr, "%s failed: %d\n", what, status);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	int count = argc > 3 ? atoi(argv[1]) : 0;
	uint8_t key[20];
	struct timespec began, ended;
	lifetime_t lifetime = { { 3600, 3000, 100 }, { 0, 0, 0 }, { 0, 0, 0 } };

	if (!count || !library_init(NULL, "charon") || !libcharon_init() ||
		!lib->plugins->load(lib->plugins, "random nonce sha1 openssl kernel-netlink"))
	{
		fprintf(stderr, "strongSwan's libraries do not start\n");
		return 1;
	}
	void *us = host_create_from_string(argv[2], 0), *them = host_create_from_string(argv[3], 0);
	void *ours = traffic_selector_create_from_cidr("10.1.0.0/16", 0, 0, 65535);
	void *empty = linked_list_create();
	memset(key, 7, sizeof(key));
	clock_gettime(CLOCK_MONOTONIC, &began);
	for (int i = 1; i <= count; i++)
	{
		char text[32];
		uint32_t spi, other = __builtin_bswap32(0x40000000u + i);
		snprintf(text, sizeof(text), "10.%d.%d.0/24", 2 + i / 250, i % 250);
		void *theirs = traffic_selector_create_from_cidr(text, 0, 0, 65535);
		kernel_t *kernel = charon->kernel;
		add_sa_t sa = {
			.reqid = i, .mode = 2, .src_ts = empty, .dst_ts = empty, .lifetime = &lifetime, .enc_alg = 20,
			.enc_key = { key, sizeof(key) }, .int_alg = 1024, .replay_window = 32, .copy_df = true,
			.copy_ecn = true, .initiator = true,
		};
		check(kernel->get_spi(kernel, them, us, 50, &spi), "get_spi");
		sa_id_t in = { them, us, spi, 50 }, out = { us, them, other, 50 };
		sa.inbound = sa.update = true;
		check(kernel->add_sa(kernel, &in, &sa), "add_sa in");
		sa.inbound = sa.update = false;
		check(kernel->add_sa(kernel, &out, &sa), "add_sa out");
		sa_cfg_t cfg_in = { .mode = 2, .reqid = i, .policy_count = 1, .esp = { true, spi } };
		sa_cfg_t cfg_out = { .mode = 2, .reqid = i, .policy_count = 1, .esp = { true, other } };
		policy_t inward = { 1, 1, 0, them, us, &cfg_in }, outward = { 1, 1, 0, us, them, &cfg_out };
		policy_id_t id_out = { 1, ours, theirs }, id_in = { 0, theirs, ours }, id_fwd = { 2, theirs, ours };
		check(kernel->add_policy(kernel, &id_out, &outward), "add_policy out");
		check(kernel->add_policy(kernel, &id_in, &inward), "add_policy in");
		check(kernel->add_policy(kernel, &id_fwd, &inward), "add_policy fwd");
	}
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%.6f\n", ended.tv_sec - began.tv_sec + (ended.tv_nsec - began.tv_nsec) / 1e9);
	fflush(stdout);
	_Exit(0);
}
