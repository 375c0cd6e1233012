# SPDX-License-Identifier: Apache-2.0
#
# `make` alone prints the targets. Building and testing need Go alone; generating needs the tools
# that `make tools` installs.

TOOLS   := $(CURDIR)/.tools/bin
CLANG   := clang-19
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO      := go

# Pinned: a different version prints different files, which `make fresh` would refuse.
CLANG_VERSION        := 19.1.7
PROTOC_GEN_GO        := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
PROTOC_GEN_GO_GRPC   := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
PROTOC_GEN_GATEWAY   := github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway@v2.32.0
GOLANGCI_LINT        := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# The race detector needs cgo, so a C compiler.
RACE := $(shell command -v gcc >/dev/null && echo -race)

.DEFAULT_GOAL := help
export PATH := $(TOOLS):$(PATH)
# One way to compile for all but the race detector, so that each package is compiled once.
export CGO_ENABLED := 0
export GOFLAGS     := -trimpath $(GOFLAGS)

.PHONY: help
help: ## print the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build weft and weft-cni into bin/
	$(GO) build -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/...

.PHONY: tools
tools: ## install the pinned generators and linter (into .tools/ and, for clang and protoc, by apt)
	bash .ci/tools.sh

.PHONY: generate
generate: ## write every generated file anew: BPF objects, rows, protobuf, docs
	bash .ci/generate.sh

.PHONY: fresh
fresh: generate ## fail when a committed generated file is not what its source gives
	@git diff --exit-code --stat -- '*_bpfel.go' '*_bpfel.o' '*.pb.go' '*.pb.gw.go' docs/reference docs/troubleshooting.md \
		|| { echo 'fresh: the files above differ from their sources; commit what make generate wrote'; exit 1; }

.PHONY: lint
lint: ## golangci-lint, clang-format
	golangci-lint run ./...
	clang-format-19 --dry-run --Werror $$(git ls-files '*.c' '*.h')

.PHONY: arch
arch: ## the laws of the tree: who may import whom, what each room says of itself
	.ci/test.sh ./tests/arch/...

# Packages that have tests: the others need not be compiled for the race detector.
TESTED := {{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}

# A million random packets per program take too long under -race.
.PHONY: test
test: ## every test: units with -race, packet tables, contracts, stories in the lab (root)
	.ci/need.sh dig podman runc busybox musl-gcc dnsperf resolved
	@failed=0; \
	CGO_ENABLED=$(if $(RACE),1,0) .ci/test.sh $(RACE) -count=1 -timeout 20m $$($(GO) list -f '$(TESTED)' ./... | grep -v '/bpf/bpftest$$') || failed=1; \
	.ci/test.sh -count=1 -timeout 20m ./bpf/bpftest || failed=1; \
	exit $$failed

.PHONY: soak-packets
soak-packets: fuzz-questions ## ten million random and malformed packets through each program, against the Go model, and the same of questions (root)
	@.ci/need.sh
	WEFT_PACKETS=10000000 .ci/test.sh -count=1 -timeout 3h -run 'TestRandomPackets|TestEdgeRandom' ./bpf/bpftest

.PHONY: walk-overlay
walk-overlay: ## 10,000 random operations on a lab: kernel, weft why and a plain model agree after each (root)
	@.ci/need.sh
	.ci/test.sh -count=1 -timeout 2h -run TestRandomWalk ./tests/walk -args -operations 10000 $(WALK)

# The newest that Debian has (the slowest here, so first), the floor and one between; what runs there are the packet tables
# and everything else of bpf, in short form.
KERNELS := 7.3 6.1 6.12
# What of bpf calls the kernel; rows, answers and conversions are pure.
OF_KERNELS := ./bpf ./bpf/bpftest ./bpf/table

.PHONY: kernels
kernels: ## fetch Debian's kernels, and what emulates a machine for them
	.ci/kernels.sh $(KERNELS)

.PHONY: test-kernels
test-kernels: kernels ## bpf's tests on Debian's kernels 6.1, 6.12 and 7.3, in emulated guests
	$(GO) run ./tests/kernels $(shell echo $(KERNELS) | tr ' ' ',') $(OF_KERNELS)

.PHONY: demo
demo: build ## the story of Weft on three hosts, checked step by step (root); KEEP=1 leaves it up
	@.ci/need.sh
	$(GO) run ./tests/e2e/demo -weft bin/weft $(if $(KEEP),-keep)

.PHONY: bench-overlay
bench-overlay: build ## the overlay beside plain routing, Docker's and flannel's designs (root); SHORT=1 only that it runs
	@.ci/need.sh
	$(GO) run ./tests/bench/overlay -weft bin/weft $(if $(SHORT),-short,-page docs/benchmarks.md) $(BENCH)
	$(GO) run ./tests/bench/scale $(if $(SHORT),-short)

.PHONY: bench-wires
bench-wires: build ## the same on other links: MTU 9000, without segmentation, packets of 192 KiB (root); SHORT=1 only that it runs
	@.ci/need.sh
	$(GO) run ./tests/bench/overlay -weft bin/weft -wires $(if $(SHORT),-short,-page docs/benchmarks.md) $(BENCH)

.PHONY: bench-edge
bench-edge: ## nanoseconds and instructions per packet of the edge's XDP program, and which flows live (root); SHORT=1 only that it runs
	@.ci/need.sh
	$(GO) run ./tests/bench/edge $(if $(SHORT),-short,-json tests/bench/results/lb.jsonl -page docs/benchmarks.md) $(BENCH)

.PHONY: fuzz-questions
fuzz-questions: ## ten million mutated questions to the kernel's parser: answered well, or left as they are (root)
	@.ci/need.sh
	WEFT_PACKETS=10000000 .ci/test.sh -count=1 -timeout 3h -run TestKernelAnswersWellOrNotAtAll ./bpf

.PHONY: test-bgp
test-bgp: ## published addresses are told to BIRD of Debian's, which it installs (root)
	@.ci/need.sh bird
	$(GO) test -count=1 -run TestBGP ./tests/e2e

.PHONY: test-zookeeper
test-zookeeper: ## weft mesos-dns finds masters by a ZooKeeper of Debian's, which it installs
	@.ci/need.sh java /usr/share/zookeeper/bin/zkServer.sh
	$(GO) test -count=1 -run ZooKeeper ./cmd/weft/mesosdns

.PHONY: bench-dns
bench-dns: build ## names beside CoreDNS, NSD, Knot, Unbound and a plain server (root); SHORT=1 only that it runs
	@.ci/need.sh nsd knotd unbound
	$(GO) run ./tests/bench/dns -weft bin/weft $(if $(SHORT),-short,-page docs/benchmarks.md) $(BENCH)

# Once for all that go to another layout and back.
.PHONY: next
next:
	$(GO) run ./tests/chaos/nextlayout -o bin/weft-next

.PHONY: chaos-discovery
chaos-discovery: build next ## names asked at full rate while daemons die and change, masters go and names change: counts what is lost or wrong (root); SHORT=1 in seconds
	@.ci/need.sh
	$(GO) run ./tests/chaos/discovery $(if $(SHORT),-short,-results tests/bench/results/discovery.jsonl) $(CHAOS)

.PHONY: bench-convergence
bench-convergence: build ## how fast facts are true everywhere: 8 real nodes, 1,000 simulated ones (root; half an hour, 18 GiB); SHORT=1 in seconds
	@.ci/need.sh
	$(GO) run ./tests/bench/convergence $(if $(SHORT),-short,-page docs/benchmarks.md) $(BENCH)

.PHONY: chaos-overlay
chaos-overlay: build next ## everything that networks must survive, under traffic: counts what is lost (root); SHORT=1 in seconds
	@.ci/need.sh
	$(GO) run ./tests/chaos/overlay $(if $(SHORT),-short,-results tests/bench/results/chaos.jsonl) $(CHAOS)

.PHONY: chaos-lb
chaos-lb: build ## restarts, dead backends and lost nodes under a VIP's clients: counts what fails (root); SHORT=1 in seconds
	@.ci/need.sh ip
	$(GO) run ./tests/chaos/lb $(if $(SHORT),-short,-results tests/bench/results/chaos-lb.jsonl) $(CHAOS)

.PHONY: bench-lb
bench-lb: ## VIPs beside direct connections, nftables and iptables; choice and scale (root); SHORT=1 only that it runs
	@.ci/need.sh nft iptables-restore
	$(GO) run ./tests/bench/lb $(if $(SHORT),-short,-page docs/benchmarks.md) $(BENCH)

.PHONY: bench-instructions
bench-instructions: ## instructions per packet of each program, counted in a guest: the same on every machine
	.ci/kernels.sh 6.12
	$(GO) run ./tests/kernels -bench Instructions 6.12 ./bpf/bpftest

.PHONY: bench-ipvs
bench-ipvs: ## a VIP beside one of IPVS, in instructions per question, counted in a guest: the same on every machine
	.ci/kernels.sh 6.12
	$(GO) run ./tests/bench/ipvs -results tests/bench/results/lb.jsonl -page docs/benchmarks.md

.PHONY: check
check: ## what CI runs
	.ci/run
