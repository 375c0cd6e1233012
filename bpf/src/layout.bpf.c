// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/* Not a program: one pointer per type of shared/, so that its BTF holds them all for bpf/gen. */

#include "shared/reason.h"
#include "shared/rows.h"

struct addr *layout_addr;
struct workload *layout_workload;
struct endpoint_key *layout_endpoint_key;
struct endpoint *layout_endpoint;
struct block_key *layout_block_key;
struct block *layout_block;
struct prefix_key *layout_prefix_key;
struct prefix *layout_prefix;
struct vtep *layout_vtep;
struct verdict_key *layout_verdict_key;
struct verdict *layout_verdict;
struct clauses_key *layout_clauses_key;
struct clauses *layout_clauses;
struct source_key *layout_source_key;
struct source *layout_source;
struct flow_key *layout_flow_key;
struct flow *layout_flow;
struct opening_key *layout_opening_key;
struct opening *layout_opening;
struct opener *layout_opener;
struct vip_key *layout_vip_key;
struct vip *layout_vip;
struct backend_key *layout_backend_key;
struct backend *layout_backend;
struct maglev *layout_maglev;
struct feedback *layout_feedback;
struct load *layout_load;
struct tally *layout_tally;
struct affinity_key *layout_affinity_key;
struct affinity *layout_affinity;
struct space *layout_space;
struct peer *layout_peer;
struct socket_peer_key *layout_socket_peer_key;
struct socket_peer *layout_socket_peer;
struct socket_vip *layout_socket_vip;
struct translation *layout_translation;
struct edge_vip_key *layout_edge_vip_key;
struct edge_vip *layout_edge_vip;
struct edge_link *layout_edge_link;
struct edge_slot *layout_edge_slot;
struct edge_backend *layout_edge_backend;
struct edge_flow_key *layout_edge_flow_key;
struct edge_flow *layout_edge_flow;
struct edge_connection_key *layout_edge_connection_key;
struct edge_served_key *layout_edge_served_key;
struct edge_served *layout_edge_served;
struct dns_key *layout_dns_key;
struct dns_answer *layout_dns_answer;
struct dns_long *layout_dns_long;
struct counter *layout_counter;
struct event *layout_event;
struct trace_key *layout_trace_key;
struct trace *layout_trace;

enum layout layout_version;
enum reason layout_reason;
enum program layout_program;
enum identity layout_identity;
enum reserved_vni layout_reserved_vni;
enum workload_flags layout_workload_flags;
enum endpoint_flags layout_endpoint_flags;
enum block_flags layout_block_flags;
enum vtep_flags layout_vtep_flags;
enum verdict_source layout_verdict_source;
enum verdict_action layout_verdict_action;
enum clauses_size layout_clauses_size;
enum flow_flags layout_flow_flags;
enum vip_policy layout_vip_policy;
enum vip_flags layout_vip_flags;
enum translation_state layout_translation_state;
enum maglev_size layout_maglev_size;
enum tally_size layout_tally_size;
enum socket_state layout_socket_state;
enum edge_vip_flags layout_edge_vip_flags;
enum edge_slot_flags layout_edge_slot_flags;
enum edge_backend_flags layout_edge_backend_flags;
enum edge_served_flags layout_edge_served_flags;
enum dns_size layout_dns_size;
