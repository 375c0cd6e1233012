// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"weft/discovery"
	"weft/discovery/state/operation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func reopen(t *testing.T, s *Store, o Options) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, o)
}

func TestRestartGoesOnWhereItWas(t *testing.T) {
	o := Options{Self: "a", Dir: filepath.Join(t.TempDir(), "state")}
	s := open(t, o)
	put(t, s, "name", "x", "1")
	put(t, s, "name", "y", "2")
	if err := s.Delete("name", "y"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply([]discovery.Row{
		{Writer: "b", Kind: "name", Key: "z", Incarnation: 9, Seq: 4, Value: []byte("3")},
		{Writer: discovery.Ledger, Kind: discovery.KindAdmission, Key: "c", Incarnation: 1, Seq: 1, Value: []byte(`{"gone":8}`)},
	}); err != nil {
		t.Fatal(err)
	}
	digest, rows, stats := s.Digest(), s.Rows(""), s.Stats()
	s = reopen(t, s, o)
	if diff := cmp.Diff(s.Digest(), digest); diff != "" {
		t.Errorf("digest (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(s.Rows(""), rows); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
	if diff := cmp.Diff(s.Stats(), stats); diff != "" {
		t.Errorf("stats (-got +want):\n%s", diff)
	}
	if changed, err := s.Apply([]discovery.Row{{Writer: "c", Kind: "name", Key: "z", Incarnation: 8, Seq: 4}}); changed != 0 || err != nil {
		t.Errorf("row of a node that is gone: %d, %v", changed, err)
	}
	put(t, s, "name", "x", "4")
	own := discovery.Stream{Writer: "a"}
	want := digest.Known[own]
	want.Seq++
	if got := s.Digest().Known[own]; got != want {
		t.Errorf("position after the next write %v, want %v", got, want)
	}
}

func TestFolderIsForOneProcess(t *testing.T) {
	o := Options{Self: "a", Dir: t.TempDir()}
	open(t, o)
	_, err := Open(o)
	if err == nil || !strings.Contains(err.Error(), o.Dir) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second open: %v, want the folder and that another process uses it", err)
	}
}

func TestFolderOfAnotherNodeIsRefused(t *testing.T) {
	o := Options{Self: "a", Dir: t.TempDir()}
	s := open(t, o)
	put(t, s, "name", "x", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Self: "b", Dir: o.Dir})
	if err == nil || !strings.Contains(err.Error(), `"a"`) || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("open: %v, want both ids", err)
	}
	if diff := cmp.Diff(content(open(t, o)), []string{"a name/x = 1"}); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
}

func TestNewerVersionIsNotTouched(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	data := append([]byte(fileMagic), 9, 0, 0)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Options{Self: "a", Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "version 9") || !strings.Contains(err.Error(), path) {
		t.Errorf("open: %v, want the version and the file", err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file was changed: %q, %v", got, err)
	}
}

// The first version had one stream per writer: what is known of others can't be told by topics, own rows
// have numbers that others must forget.
func TestTheFirstVersionIsReadAndReplaced(t *testing.T) {
	o := Options{Self: "a", Dir: t.TempDir()}
	oldWriter := func(name string, seq uint64) []byte {
		b := append([]byte{3, byte(len(name))}, name...) // an operation of that version alone
		return binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(b, 5), seq), 0)
	}
	var ops []byte
	for i, r := range []discovery.Row{
		{Writer: "a", Kind: "name", Key: "x", Value: []byte("1")},
		{Writer: "a", Kind: "endpoint", Key: "x", Value: []byte("2")},
		{Writer: "b", Kind: "name", Key: "y", Value: []byte("3")},
		{Writer: "b", Kind: "endpoint", Key: "y", Value: []byte("4")},
	} {
		r.Incarnation, r.Seq = 5, uint64(i+1)
		ops = operation.AppendRow(ops, &r)
	}
	ops = append(append(ops, oldWriter("a", 2)...), oldWriter("b", 4)...)
	file := record([]byte(fileMagic+"\x01\x00\x01a"), ops)
	if err := os.WriteFile(filepath.Join(o.Dir, fileName), file, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, o)
	want := []string{"a endpoint/x = 2", "a name/x = 1", "b name/y = 3"}
	for range 2 { // as it is read, and as it was written anew
		if diff := cmp.Diff(content(s), want); diff != "" {
			t.Errorf("rows (-got +want):\n%s", diff)
		}
		known := s.Digest().Known
		for _, of := range []discovery.Stream{{Writer: "a"}, {Writer: "a", Topic: discovery.Topic{Kind: "endpoint"}}} {
			if p := known[of]; p.Incarnation != s.Incarnation() || p.Incarnation <= 5 || p.Seq != 1 {
				t.Errorf("%s is at %v, want the first of a new life", of, p)
			}
		}
		if p, ok := known[discovery.Stream{Writer: "b"}]; ok {
			t.Errorf("claims to know b up to %v", p)
		}
		s = reopen(t, s, o)
	}
}

func TestTopicsAreHeldAgainAfterARestartAndLeftOnesAreNot(t *testing.T) {
	o := Options{Self: "a", Dir: t.TempDir()}
	s := open(t, o)
	web, db := discovery.Topic{Kind: "name", Of: "web"}, discovery.Topic{Kind: "name", Of: "db"}
	if v, again := s.Take(web, db), s.Take(web); v != again || v == 0 {
		t.Errorf("taken in version %d, and %d the second time", v, again)
	}
	for i, key := range []string{"web/1", "db/1", "other/1"} {
		row := discovery.Row{Writer: "b", Kind: "name", Key: key, Incarnation: 1, Seq: uint64(i + 1), Value: []byte("v")}
		if _, err := s.Apply([]discovery.Row{row}); err != nil {
			t.Fatal(err)
		}
	}
	s.Leave(db)
	for range 2 {
		if diff := cmp.Diff(content(s), []string{"b name/web/1 = v"}); diff != "" {
			t.Errorf("rows (-got +want):\n%s", diff)
		}
		if got, _ := s.Interest(); !slices.Equal(got, []discovery.Topic{web}) {
			t.Errorf("interest %v, want %v", got, web)
		}
		if n := s.Stats().Streams; n != 2 {
			t.Errorf("%d streams, want 2: its own, and web of b", n)
		}
		s = reopen(t, s, o)
	}
}

func TestClosedStoreRefusesAndReads(t *testing.T) {
	s := open(t, Options{Self: "a", Dir: t.TempDir()})
	put(t, s, "name", "x", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("name", "y", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("put: %v, want ErrClosed", err)
	}
	if _, err := s.Apply([]discovery.Row{{Writer: "b", Kind: "name", Key: "z", Incarnation: 9, Seq: 4}}); !errors.Is(err, ErrClosed) {
		t.Errorf("apply: %v, want ErrClosed", err)
	}
	if diff := cmp.Diff(content(s), []string{"a name/x = 1"}); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
}

func TestLogStaysSmall(t *testing.T) {
	o := Options{Self: "a", Dir: t.TempDir()}
	s := open(t, o)
	value := strings.Repeat("v", 10_000)
	for i := range 1000 {
		put(t, s, "name", fmt.Sprint(i%10), value+fmt.Sprint(i))
	}
	if got := s.Stats().LogBytes; got > 2<<20 {
		t.Errorf("log of %d bytes for 100 KB of rows", got)
	}
	rows := s.Rows("")
	if diff := cmp.Diff(reopen(t, s, o).Rows(""), rows); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
}

// TestWritersSideBySide is for the race detector, and that no acknowledged row is lost.
func TestWritersSideBySide(t *testing.T) {
	o := Options{Self: "a", Dir: t.TempDir()}
	s := open(t, o)
	var running sync.WaitGroup
	for w := range 8 {
		running.Go(func() {
			for i := range 20 {
				if err := s.Put("name", fmt.Sprintf("%d-%d", w, i), []byte("v")); err != nil {
					t.Error(err)
				}
				if _, err := s.Apply([]discovery.Row{{
					Writer: fmt.Sprint("w", w), Kind: "name", Key: fmt.Sprint(i), Incarnation: 1, Seq: uint64(i + 1), Value: []byte("v"),
				}}); err != nil {
					t.Error(err)
				}
				s.Rows("name")
				for range s.Since(Digest{}) {
				}
			}
		})
	}
	running.Wait()
	if got := len(reopen(t, s, o).Rows("name")); got != 320 {
		t.Errorf("%d rows, want 320", got)
	}
}

// history is a store's folder after each acknowledged step of a story, with what was believed then.
type history struct {
	data     []byte
	believed map[string]string
}

func story(t *rapid.T, dir string) []history {
	s := openRapid(t, Options{Self: "a", Dir: dir, Tombstones: 2})
	defer func() { _ = s.Close() }()
	var steps []history
	seq := uint64(0)
	note := func() {
		data, err := os.ReadFile(filepath.Join(dir, fileName))
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, history{data, believed(s)})
	}
	note()
	for range rapid.IntRange(1, 12).Draw(t, "steps") {
		key := rapid.SampledFrom([]string{"u", "v", "w", "x"}).Draw(t, "key")
		var err error
		switch rapid.IntRange(0, 4).Draw(t, "what") {
		case 0, 1:
			err = s.Put("name", key, []byte(rapid.StringN(0, 30, 90).Draw(t, "value")))
		case 2:
			err = s.Delete("name", key)
		case 3:
			seq++
			_, err = s.Apply([]discovery.Row{{Writer: "b", Kind: "name", Key: key, Incarnation: 1, Seq: seq, Value: []byte("b")}})
		case 4:
			s.commitMu.Lock()
			err = s.disk.Rewrite(s.now().snapshot)
			s.commitMu.Unlock()
		}
		if err != nil {
			t.Fatal(err)
		}
		note()
	}
	return steps
}

func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "weft-state")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// restart opens a folder that holds data.
func restart(t *rapid.T, data []byte) (*Store, string, *bytes.Buffer) {
	dir := tempDir(t)
	if err := os.WriteFile(filepath.Join(dir, fileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	s := openRapid(t, Options{Self: "a", Dir: dir, Log: slog.New(slog.NewTextHandler(&said, nil))})
	return s, dir, &said
}

func TestCrashAtAnyPointLosesNothingAcknowledged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := story(t, tempDir(t))
		i := rapid.IntRange(0, len(steps)-1).Draw(t, "crash after step")
		data := steps[i].data
		// The step after it may have been written in part.
		want := []map[string]string{steps[i].believed}
		if i+1 < len(steps) && bytes.HasPrefix(steps[i+1].data, data) {
			next := steps[i+1].data
			data = next[:rapid.IntRange(len(data), len(next)).Draw(t, "bytes written")]
			want = append(want, steps[i+1].believed)
		}
		s, _, said := restart(t, data)
		defer func() { _ = s.Close() }()
		got := believed(s)
		if !cmp.Equal(got, want[0]) && (len(want) == 1 || !cmp.Equal(got, want[1])) {
			t.Fatalf("after the crash %v, want one of %v; log: %s", got, want, said)
		}
		agree(t, s)
	})
}

func TestBrokenBytesAreToldAndTheRestIsUsed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps := story(t, tempDir(t))
		last := steps[len(steps)-1]
		data := bytes.Clone(last.data)
		at := rapid.IntRange(0, len(data)-1).Draw(t, "offset")
		// The version and the owner are the operator's to mend.
		if self := fileHeader + len("a"); at >= len(fileMagic) && at < self {
			t.Skip("header")
		}
		data[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		s, folder, said := restart(t, data)
		if s.Stats().Salvaged == 0 || !strings.Contains(said.String(), "offset") || !strings.Contains(said.String(), fileName) {
			t.Fatalf("nothing was told of a broken byte at %d: %+v, %q", at, s.Stats(), said)
		}
		kept, err := filepath.Glob(filepath.Join(folder, fileName+".broken-*"))
		if err != nil || len(kept) != 1 {
			t.Fatalf("kept aside: %v, %v", kept, err)
		}
		if aside, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(aside, data) {
			t.Fatalf("the file kept aside is not the broken one: %v", err)
		}
		agree(t, s)
		// Nothing is known of others for sure, so that it is asked for again; our own life is new.
		if d := s.Digest(); len(d.Known) > 1 || d.Known[discovery.Stream{Writer: "b"}] != (discovery.Position{}) {
			t.Fatalf("digest %v claims to know others", d)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		again := openRapid(t, Options{Self: "a", Dir: folder})
		defer func() { _ = again.Close() }()
		if again.Stats().Salvaged != 0 || !cmp.Equal(believed(again), believed(s)) || again.Incarnation() != s.Incarnation() {
			t.Fatalf("the next start: %+v, %v, want %v", again.Stats(), believed(again), believed(s))
		}
	})
}

func TestOneBrokenRecordCostsOneRecord(t *testing.T) {
	o := Options{Self: "a", Dir: t.TempDir()}
	s := open(t, o)
	for _, key := range []string{"first", "second", "third"} {
		put(t, s, "name", key, "value of "+key)
	}
	life := s.Incarnation()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(o.Dir, copyName)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.Dir, fileName)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[bytes.Index(data, []byte("value of second"))] = 'V'
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if diff := cmp.Diff(content(s), []string{"a name/first = value of first", "a name/third = value of third"}); diff != "" {
		t.Errorf("rows (-got +want):\n%s", diff)
	}
	if s.Incarnation() <= life {
		t.Error("the incarnation did not grow: others would take what is said now for old")
	}
}

func TestEitherFileIsEnough(t *testing.T) {
	for _, broken := range []string{fileName, copyName} {
		o := Options{Self: "a", Dir: t.TempDir()}
		s := open(t, o)
		put(t, s, "name", "first", "1")
		put(t, s, "name", "second", "2")
		life, want := s.Incarnation(), content(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(o.Dir, broken)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data[:len(data)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		s = open(t, o)
		if diff := cmp.Diff(content(s), want); diff != "" {
			t.Errorf("%s cut in half: rows (-got +want):\n%s", broken, diff)
		}
		if s.Incarnation() != life {
			t.Errorf("%s cut in half: a new life began, though nothing was lost", broken)
		}
		put(t, s, "name", "third", "3")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		first, err := os.ReadFile(filepath.Join(o.Dir, fileName))
		if err != nil {
			t.Fatal(err)
		}
		second, err := os.ReadFile(filepath.Join(o.Dir, copyName))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Errorf("%s cut in half: the files differ after the repair", broken)
		}
	}
}

func TestFullDiskIsToldAndMended(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	o := Options{Self: "a", Dir: dir}
	s := open(t, o)
	put(t, s, "name", "kept", "1")
	ballast := filepath.Join(dir, "ballast")
	err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	if err := s.Put("name", "big", make([]byte, 8192)); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("put on a full disk: %v, want ENOSPC", err)
	}
	// What others say is used, though it can't be kept.
	row := discovery.Row{Writer: "b", Kind: "name", Key: "x", Incarnation: 1, Seq: 1, Value: bytes.Repeat([]byte("b"), 8192)}
	if changed, err := s.Apply([]discovery.Row{row}); changed != 1 || err != nil {
		t.Errorf("apply on a full disk: %d, %v", changed, err)
	}
	if n := len(s.Rows("name")); n != 2 {
		t.Errorf("%d rows, want kept and x", n)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	put(t, s, "name", "after", "2")
	want := content(s)
	if got := content(reopen(t, s, o)); !cmp.Equal(got, want) || len(want) != 3 {
		t.Errorf("after the disk had room: %d rows, want %d (3)", len(got), len(want))
	}
}

// The form of a state file, as package journal says it.
const (
	fileName   = "rows.log"
	copyName   = "rows.copy"
	fileMagic  = "WEFTROWS"
	fileHeader = len(fileMagic) + 1 + 2
)

func record(b, ops []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, 0x57eff0a1)
	sized := binary.BigEndian.AppendUint32(nil, uint32(len(ops)))
	sum := crc32.Checksum(slices.Concat(sized, ops), crc32.MakeTable(crc32.Castagnoli))
	return slices.Concat(b, sized, binary.BigEndian.AppendUint32(nil, sum), ops)
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(fileMagic))
	f.Add(record([]byte(fileMagic+"\x01\x00\x01a"), operation.AppendRow(nil, &discovery.Row{Writer: "a", Kind: "name", Key: "x", Incarnation: 1, Seq: 2})))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Options{Self: "a", Dir: dir})
		if err != nil {
			return
		}
		if err := s.Put("name", "x", []byte("v")); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
