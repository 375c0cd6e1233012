// SPDX-License-Identifier: Apache-2.0

// Package arch holds the laws of the tree as tests: who may import whom, which room owns which
// library, which rooms are pure, and what every file and folder carries. It reads source files only
// and leaves what the code does to the rooms' own tests.
package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "weft"

// file is one parsed Go file.
type file struct {
	path    string // from the root, with slashes
	dir     string
	test    bool
	imports []string
	ast     *ast.File
}

// room is the folder's import path below the module.
func (f file) room() string { return f.dir }

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// goFiles parses every Go file of the tree, generated ones too.
func goFiles(t *testing.T) []file {
	t.Helper()
	var files []file
	for _, path := range tree(t) {
		if !strings.HasSuffix(path, ".go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), path), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		f := file{path: path, dir: filepath.ToSlash(filepath.Dir(path)), test: strings.HasSuffix(path, "_test.go"), ast: parsed}
		for _, spec := range parsed.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			f.imports = append(f.imports, name)
		}
		files = append(files, f)
	}
	return files
}

// tree lists every file of the checkout but dot folders, bin and testdata.
func tree(t *testing.T) []string {
	t.Helper()
	var paths []string
	err := fs.WalkDir(os.DirFS(root(t)), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".ci" || d.Name() == "testdata" || path == "bin") {
			return fs.SkipDir
		}
		if !d.IsDir() {
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// within reports whether room is one of the given folders or below one.
func within(room string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		return room == folder || strings.HasPrefix(room, folder+"/")
	})
}

// may says which rooms of ours a room may import, besides those below its own top-level folder.
// The first matching folder decides.
var may = []struct {
	room    string
	imports []string
}{
	{"bpf", nil},
	{"discovery", nil},
	{"overlay", []string{"bpf", "bpf/row", "bpf/table", "discovery", "discovery/state", "discovery/wire"}},
	{"lb", []string{"bpf", "bpf/row", "bpf/table", "discovery", "discovery/state", "discovery/wire"}},
	{"control", []string{"overlay", "lb", "discovery", "discovery/wire"}},
	{"agent", []string{"overlay", "lb", "discovery", "control/wire"}},
}

func TestRoomsImportOnlyWhatTheyMayKnow(t *testing.T) {
	for _, f := range goFiles(t) {
		top, _, _ := strings.Cut(f.room(), "/")
		if top == "cmd" || top == "tests" || f.test {
			continue
		}
		i := slices.IndexFunc(may, func(m struct {
			room    string
			imports []string
		},
		) bool {
			return within(f.room(), m.room)
		})
		for _, name := range f.imports {
			room, ours := strings.CutPrefix(name, module+"/")
			if !ours {
				continue
			}
			if i < 0 {
				t.Errorf("%s is in no room that the laws know", f.path)
				break
			}
			if !within(room, top) && !slices.Contains(may[i].imports, room) {
				t.Errorf("%s imports %s; rooms of %s may import only %v", f.path, name, may[i].room, may[i].imports)
			}
		}
	}
}

// layers says which rooms of the same folder each of these may import, lowest first; what is not named here (engine,
// the service's other forms) may import all of them.
var layers = []struct {
	room    string
	imports []string
}{
	{"overlay", nil},
	{"overlay/ipam", []string{"overlay"}},
	{"overlay/compile", []string{"overlay"}},
	{"overlay/explain", []string{"overlay", "overlay/compile"}},
	{"overlay/facts", []string{"overlay", "overlay/compile"}},
	{"overlay/paths", []string{"overlay", "overlay/compile", "overlay/facts"}},
	{"overlay/watch", []string{"overlay", "overlay/compile", "overlay/explain"}},
	{"overlay/apply/firewall", []string{"overlay", "overlay/compile"}},
	{"overlay/apply", []string{"overlay", "overlay/compile", "overlay/apply/firewall"}},
	{"discovery", nil},
	{"discovery/dnsname", nil},
	{"discovery/zone/table", nil},
	{"discovery/zone/record", []string{"discovery", "discovery/dnsname", "discovery/zone/table"}},
	{"discovery/zone", []string{"discovery", "discovery/dnsname", "discovery/zone/record", "discovery/zone/table"}},
	{"discovery/state/journal", nil},
	{"control/decision/free", nil},
	{"control/decision", []string{"control", "control/decision/free", "control/ledger"}},
	{"bpf/row", nil},
	{"bpf/mounts", nil},
	{"bpf/pins", []string{"bpf/mounts", "bpf/row"}},
	{"discovery/state/operation", []string{"discovery", "discovery/state/journal"}},
	{"discovery/state/watch", []string{"discovery"}},
	{"discovery/state", []string{"discovery", "discovery/state/journal", "discovery/state/operation", "discovery/state/watch"}},
}

func TestRoomsAreInLayers(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, l := range layers {
			if f.test || f.room() != l.room {
				continue
			}
			top, _, _ := strings.Cut(l.room, "/")
			for _, name := range f.imports {
				room, ours := strings.CutPrefix(name, module+"/")
				if ours && within(room, top) && !slices.Contains(l.imports, room) {
					t.Errorf("%s imports %s; %s may import only %v", f.path, name, l.room, l.imports)
				}
			}
		}
	}
}

// owners says which rooms alone may import a library (tests excepted).
var owners = map[string][]string{
	"github.com/cilium/ebpf":          {"bpf", "tests/bench"},
	"github.com/vishvananda/netlink":  {"overlay/apply", "tests/lab", "tests/bench"},
	"github.com/google/nftables":      {"overlay/apply", "tests/lab", "tests/bench"},
	"github.com/miekg/dns":            {"discovery/zone", "discovery/dns", "tests/bench", "tests/chaos"},
	"github.com/hashicorp/serf":       {"discovery/gossip"},
	"github.com/hashicorp/memberlist": {"discovery/gossip"},
	"github.com/google/btree":         {"discovery/state"},
	"github.com/mdlayher/vsock":       {"agent/guest"},
	"github.com/osrg/gobgp":           {"lb/announce/bgp"},
	"go.etcd.io/etcd":                 {"control/ledger"},
	"github.com/spf13/cobra":          {"cmd"},
	"github.com/prometheus":           {"cmd"},
	"github.com/go-zookeeper/zk":      {"cmd/weft/mesosdns"},
	"github.com/golang-jwt":           {"cmd/weft/mesosdns"},
	"github.com/vmware/go-ipfix":      {"cmd/weft/ipfix"},
	"k8s.io/klog":                     {"cmd/weft/ipfix"},
	"github.com/containernetworking":  {"cmd/weft-cni"},
	"github.com/grpc-ecosystem":       {"control/controlpb", "control/master"},
	"google.golang.org/grpc":          {"discovery/wire", "overlay/overlaypb", "lb/lbpb", "discovery/discoverypb", "control/controlpb", "control/master", "cmd"},
	"google.golang.org/protobuf":      {"overlay/overlaypb", "lb/lbpb", "discovery/discoverypb", "control/controlpb", "cmd"},
	"google.golang.org/genproto":      {"control/controlpb"},
}

func TestEveryLibraryHasItsOwnerRoom(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		for _, name := range f.imports {
			for library, rooms := range owners {
				if (name == library || strings.HasPrefix(name, library+"/")) && !within(f.room(), rooms...) {
					t.Errorf("%s imports %s, which belongs to %v", f.path, name, rooms)
				}
			}
		}
	}
}

// pure rooms take values and the time and return values.
var pure = []string{
	"bpf/row", "overlay/ipam", "overlay/compile", "overlay/explain", "lb/maglev", "lb/compile", "lb/edge", "discovery/dnsname", "discovery/zone", "discovery/zone/record", "discovery/zone/table", "discovery/mesos",
	"control/decision", "control/decision/free", "control/resource", "control/offer", "agent/task",
}

func TestPureRoomsTouchNothing(t *testing.T) {
	forbidden := []string{"os", "os/exec", "net", "net/http", "log", "log/slog", "syscall", "math/rand", "math/rand/v2", "context"}
	for _, f := range goFiles(t) {
		if f.test || !slices.Contains(pure, f.room()) {
			continue
		}
		for _, name := range f.imports {
			if slices.Contains(forbidden, name) {
				t.Errorf("%s is in a pure room and imports %s", f.path, name)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "NewTimer", "NewTicker"}, s.Sel.Name) {
					t.Errorf("%s is in a pure room and calls time.%s", f.path, s.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	said := make(map[string]bool)
	for _, f := range goFiles(t) {
		if f.test && said[f.room()] {
			continue
		}
		doc := ""
		if f.ast.Doc != nil {
			doc = f.ast.Doc.Text()
		}
		said[f.room()] = said[f.room()] || strings.HasPrefix(doc, "Package "+f.ast.Name.Name) || strings.HasPrefix(doc, "Command ")
	}
	for room, ok := range said {
		if !ok {
			t.Errorf("no file of %s has a package comment (Package NAME ...)", room)
		}
	}
}

// roomLines is how large a room may be, in lines of Go that are neither tests nor generated: one that is larger has a
// second noun, which wants a room of its own.
const roomLines = 2000

// larger are rooms that may be, up to so many lines.
var larger = map[string]int{
	// The model says in Go what every program in C does with a packet, and which rows it leaves: the programs are one
	// path, and steps of the model call each other as theirs do. Only tests read it.
	"bpf/bpftest": 3600,
}

func TestRoomsAreSmall(t *testing.T) {
	lines := make(map[string]int)
	for _, f := range goFiles(t) {
		if f.test || ast.IsGenerated(f.ast) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(t), f.path))
		if err != nil {
			t.Fatal(err)
		}
		lines[f.room()] += strings.Count(string(text), "\n")
	}
	for room, n := range lines {
		most := max(roomLines, larger[room])
		if n > most {
			t.Errorf("%s has %d lines of Go, %d are allowed: which noun of it wants a room of its own?", room, n, most)
		}
	}
	for room, most := range larger {
		if lines[room] <= roomLines {
			t.Errorf("%s has %d lines of Go and needs no exception of %d", room, lines[room], most)
		}
	}
}

func TestNoInitFunctions(t *testing.T) {
	for _, f := range goFiles(t) {
		if ast.IsGenerated(f.ast) {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function; wire it in cmd", f.path)
			}
		}
	}
}

func TestEveryFileNamesItsLicence(t *testing.T) {
	for _, path := range tree(t) {
		want := ""
		switch filepath.Ext(path) {
		case ".go", ".sh", ".proto":
			want = "SPDX-License-Identifier: Apache-2.0"
		case ".c", ".h":
			want = "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)"
		}
		if filepath.Base(path) == "Makefile" || path == ".ci/run" {
			want = "SPDX-License-Identifier: Apache-2.0"
		}
		if want == "" || strings.HasSuffix(path, ".pb.go") || strings.HasSuffix(path, ".pb.gw.go") || strings.HasSuffix(path, "_bpfel.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(t), path))
		if err != nil {
			t.Fatal(err)
		}
		head := strings.SplitN(string(text), "\n", 4)
		if !strings.Contains(strings.Join(head[:min(3, len(head))], "\n"), want) {
			t.Errorf("%s does not begin with %q", path, want)
		}
	}
}

func TestModuleHasNoReplace(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "replace ") {
		t.Error("go.mod has a replace directive")
	}
}

// direct lists the modules that our own code imports.
func direct(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	var modules []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 2 && strings.Contains(fields[0], ".") && strings.HasPrefix(fields[1], "v") {
			modules = append(modules, fields[0])
		}
	}
	return modules
}

func TestEveryModuleIsADecision(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs/decisions/0001-libraries.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range direct(t) {
		if !strings.Contains(string(text), name) {
			t.Errorf("docs/decisions/0001-libraries.md does not say why %s is needed", name)
		}
	}
}

func TestRoomReadmesHaveTheSameHeadings(t *testing.T) {
	for _, room := range []string{"bpf", "overlay", "lb", "discovery", "control", "agent"} {
		text, err := os.ReadFile(filepath.Join(root(t), room, "README.md"))
		if err != nil {
			t.Error(err)
			continue
		}
		var got []string
		for line := range strings.Lines(string(text)) {
			if title, ok := strings.CutPrefix(line, "## "); ok {
				got = append(got, strings.TrimSpace(title))
			}
		}
		want := []string{"Purpose", "Flow", "Nouns", "Limits", "Tests"}
		if !slices.Equal(got, want) {
			t.Errorf("%s/README.md has headings %v, want %v", room, got, want)
		}
	}
}
