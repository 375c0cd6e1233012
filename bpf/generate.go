// SPDX-License-Identifier: Apache-2.0

package bpf

// The objects and Go's layouts are committed; `make generate` writes them anew and `make fresh` compares. Own
// headers only (-nostdinc), one pinned compiler, paths in the objects relative: the bytes do not depend
// on the machine or the folder. -mcpu=v3 is what Linux 6.1 verifies (v4 needs 6.6).

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types workload src/workload.bpf.c -- -mcpu=v3 -nostdinc -Isrc -Wall -Wextra -Werror
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types tunnel src/tunnel.bpf.c -- -mcpu=v3 -nostdinc -Isrc -Wall -Wextra -Werror
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types node src/node.bpf.c -- -mcpu=v3 -nostdinc -Isrc -Wall -Wextra -Werror
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types dns src/dns.bpf.c -- -mcpu=v3 -nostdinc -Isrc -Wall -Wextra -Werror
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types socket src/socket.bpf.c -- -mcpu=v3 -nostdinc -Isrc -Wall -Wextra -Werror
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types feedback src/feedback.bpf.c -- -mcpu=v3 -nostdinc -Isrc -Wall -Wextra -Werror
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types edge src/edge.bpf.c -- -mcpu=v3 -nostdinc -Isrc -Wall -Wextra -Werror
//go:generate clang-19 -target bpf -mcpu=v3 -O2 -g -nostdinc -Isrc -c src/layout.bpf.c -o row/layout.o
//go:generate go run ./gen row/layout.o src/shared/reason.h row/layout_bpfel.go
//go:generate rm row/layout.o
