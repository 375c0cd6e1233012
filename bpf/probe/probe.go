// SPDX-License-Identifier: Apache-2.0

// Package probe tries what the kernel half uses of a kernel, by loading and attaching.
package probe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/bpf/mounts"
)

// ErrUnsupported says that the kernel lacks something; the text says what and since when.
var ErrUnsupported = errors.New("not supported by this kernel")

// Feature is something of the kernel that the kernel half uses.
type Feature struct {
	Name string
	On   bool
	// Needed says that without it there is no kernel half; else something stands in for it.
	Needed bool
	// Why says, when it is off, what was refused and what that means; when on, what it is used for.
	Why string
}

// check is one row of Features: try is nil when the feature is there.
type check struct {
	name    string
	needed  bool
	purpose string // what it is used for
	without string // what is when it is off
	try     func() error
}

// checks is everything that the programs and the loader use, in the order of the packet's way.
var checks = []check{
	{"bpffs", true, "programs and maps outlive the daemon", "needs CONFIG_BPF_SYSCALL", tryBPFFS},
	{"btf", false, "verifier messages name types", "less detail in error messages", tryBTF},
	{"tcx", false, "programs on links, replaced without a gap", "clsact filters are used in its place (tcx: Linux 6.6)", TCX},
	{"redirect_peer", true, "delivery into a task's namespace in one step", "Linux 5.10", helper(asm.FnRedirectPeer)},
	{"redirect_neigh", true, "sending by the kernel's neighbour table", "Linux 5.10", helper(asm.FnRedirectNeigh)},
	{"adjust_room", true, "own VXLAN encapsulation", "Linux 4.13", helper(asm.FnSkbAdjustRoom)},
	{"decap_ipv6", false, "own decapsulation of IPv6", "the VXLAN device does it (Linux 6.3)", tryDecapIPv6},
	{"tunnel_key", true, "slow path by the VXLAN device", "Linux 4.3", helper(asm.FnSkbGetTunnelKey)},
	{"vxlan_gbp", true, "identity in the VXLAN group policy field", "Linux 4.6", helper(asm.FnSkbSetTunnelOpt)},
	{"lru_hash", true, "flows and translations", "Linux 4.10", mapType(ebpf.LRUHash)},
	{"lpm_trie", true, "which network an address is of", "Linux 4.11", mapType(ebpf.LPMTrie)},
	{"lpm_batch", false, "prefixes written in few calls", "they are written one by one (batches: Linux 5.16)", tryLPMBatch},
	{"ringbuf", true, "events of dropped packets", "Linux 5.8", mapType(ebpf.RingBuf)},
	{"sk_storage", true, "what a connected socket's VIP was", "Linux 5.2", mapType(ebpf.SkStorage)},
	{"cgroup2", false, "VIPs at connect time", "VIPs are translated per packet only", tryCgroup2},
	{
		"cgroup_connect", false, "VIPs at connect time", "VIPs are translated per packet only (Linux 4.17)",
		sockAddr(ebpf.AttachCGroupInet4Connect),
	},
	{
		"cgroup_getpeername", false, "getpeername shows the VIP", "it shows the backend (Linux 5.8)",
		sockAddr(ebpf.AttachCgroupInet4GetPeername),
	},
	{"sock_ops", true, "VIPs that see latency and failure", "Linux 4.19", programHelper(ebpf.SockOps, asm.FnSockOpsCbFlagsSet)},
	{
		"retval", false, "connect to a VIP without backend says: refused", "it says: not permitted (Linux 5.18)",
		tryRetval,
	},
	{"netns_cookie", true, "VIPs by network", "Linux 5.7", programHelper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie)},
	{"netkit", false, "not used yet", "Linux 6.7; not used yet", tryNetkit},
}

// Features tries every feature of the kernel that the kernel half uses, by loading and attaching; what it
// attaches lets every packet pass and is gone when it returns.
func Features() []Feature {
	found := make([]Feature, 0, len(checks))
	for _, c := range checks {
		f := Feature{Name: c.name, On: true, Needed: c.needed, Why: c.purpose}
		if err := c.try(); err != nil {
			f.On = false
			f.Why = fmt.Sprintf("%s (%v)", c.without, err)
		}
		found = append(found, f)
	}
	return found
}

func helper(fn asm.BuiltinFunc) func() error { return programHelper(ebpf.SchedCLS, fn) }

func programHelper(kind ebpf.ProgramType, fn asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(kind, fn) }
}

func mapType(kind ebpf.MapType) func() error {
	return func() error { return features.HaveMapType(kind) }
}

// returning is a program that does nothing but answer.
func returning(kind ebpf.ProgramType, attach ebpf.AttachType, answer int32) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "weft_probe", Type: kind, AttachType: attach, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, answer), asm.Return()},
	})
}

// tcxNext passes the packet on to the next program.
const tcxNext = -1

// loopback is the index of lo in every namespace.
const loopback = 1

// TCX attaches to the loopback of the calling thread's namespace for a moment. Without tcx the error is ErrUnsupported.
func TCX() error {
	prog, err := returning(ebpf.SchedCLS, ebpf.AttachTCXIngress, tcxNext)
	if errors.Is(err, unix.EINVAL) { // the attach type is unknown
		return fmt.Errorf("tcx: %w (since Linux 6.6)", ErrUnsupported)
	}
	if err != nil {
		return err
	}
	defer closeQuietly(prog)
	l, err := link.AttachTCX(link.TCXOptions{Interface: loopback, Program: prog, Attach: ebpf.AttachTCXIngress})
	if errors.Is(err, link.ErrNotSupported) {
		return fmt.Errorf("tcx: %w (since Linux 6.6)", ErrUnsupported)
	}
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

// tryNetkit asks for netkit on a device that is none: a kernel with it says so.
func tryNetkit() error {
	prog, err := returning(ebpf.SchedCLS, ebpf.AttachNetkitPrimary, tcxNext)
	if err != nil {
		return fmt.Errorf("netkit: %w", ErrUnsupported)
	}
	defer closeQuietly(prog)
	l, err := link.AttachNetkit(link.NetkitOptions{
		Interface: loopback, Program: prog, Attach: ebpf.AttachNetkitPrimary,
	})
	if err == nil { // not on a loopback, but an answer all the same
		return l.Close()
	}
	if errors.Is(err, link.ErrNotSupported) {
		return fmt.Errorf("netkit: %w", ErrUnsupported)
	}
	return nil
}

// decapIPv6 is BPF_F_ADJ_ROOM_DECAP_L3_IPV6.
const decapIPv6 = 1 << 8

// tryDecapIPv6 takes 20 bytes out of a packet of zeros with a flag that older kernels refuse.
func tryDecapIPv6() error {
	const roomMAC = 1 // BPF_ADJ_ROOM_MAC
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "weft_probe", Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, -20), asm.Mov.Imm(asm.R3, roomMAC), asm.Mov.Imm(asm.R4, decapIPv6),
			asm.FnSkbAdjustRoom.Call(), asm.Return(),
		},
	})
	if err != nil {
		return err
	}
	defer closeQuietly(prog)
	packet := make([]byte, 128)
	packet[12], packet[14] = 0x08, 0x45 // IPv4: only IP packets may be shrunk
	answer, err := prog.Run(&ebpf.RunOptions{Data: packet})
	if err != nil {
		return err
	}
	if int32(answer) < 0 {
		return fmt.Errorf("bpf_skb_adjust_room: %w: %w", ErrUnsupported, unix.Errno(-int32(answer)))
	}
	return nil
}

// tryRetval calls the helper, which cannot be probed without its argument.
func tryRetval() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "weft_probe", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, 0), asm.FnSetRetval.Call(), asm.Mov.Imm(asm.R0, 1), asm.Return(),
		},
	})
	if err != nil {
		return err
	}
	closeQuietly(prog)
	return nil
}

func sockAddr(attach ebpf.AttachType) func() error {
	return func() error {
		prog, err := returning(ebpf.CGroupSockAddr, attach, 1)
		if err != nil {
			return err
		}
		closeQuietly(prog)
		return nil
	}
}

func tryBPFFS() error {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	return hasWord(known, "bpf")
}

// tryCgroup2 attaches to an empty cgroup of its own for a moment.
func tryCgroup2() (err error) {
	top, err := mounts.Cgroup2()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(top, "weft-probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Rmdir(dir)) }()
	prog, err := returning(ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect, 1)
	if err != nil {
		return err
	}
	defer closeQuietly(prog)
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInet4Connect, Program: prog})
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Close())
}

func tryBTF() error {
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	return err
}

func tryLPMBatch() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "weft_probe", Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: 2, Flags: unix.BPF_F_NO_PREALLOC,
	})
	if err != nil {
		return err
	}
	defer closeQuietly(m)
	_, err = m.BatchUpdate([]uint64{8, 16}, []uint32{1, 2}, nil)
	return err
}

// hasWord looks for a file system in /proc/filesystems.
func hasWord(list []byte, word string) error {
	for field := range bytes.FieldsSeq(list) {
		if string(field) == word {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", word, ErrUnsupported)
}

// closeQuietly ends what only a probe used.
func closeQuietly(c io.Closer) { _ = c.Close() }
