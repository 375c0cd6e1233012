// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"weft/discovery"
	"weft/discovery/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long anything may take.
const patience = 30 * time.Second

func openStore(t *testing.T, o state.Options) *state.Store {
	t.Helper()
	s, err := state.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func syncer(t *testing.T, store *state.Store) *Syncer {
	t.Helper()
	s, err := NewSyncer(SyncOptions{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve serves s and returns a connection to it, and what ends both.
func serve(t *testing.T, s *Syncer) (*grpc.ClientConn, func()) {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	s.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///weft",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	done := false
	stop := func() {
		if done {
			return
		}
		done = true
		s.Close()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return conn, stop
}

// with runs an exchange in the background and returns what ends it and gives its error.
func with(t *testing.T, s *Syncer, conn grpc.ClientConnInterface) func() error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- s.With(ctx, conn, nil) }()
	var err error
	stopped := false
	stop := func() error {
		if !stopped {
			stopped = true
			cancel()
			err = <-result
		}
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func content(s *state.Store) []string {
	var all []string
	for _, r := range s.Rows("") {
		all = append(all, fmt.Sprintf("%s %s/%s = %s", r.Writer, r.Kind, r.Key, r.Value))
	}
	return all
}

// same waits until two stores believe the same.
func same(t *testing.T, a, b *state.Store) {
	t.Helper()
	until(t, func() string { return cmp.Diff(content(a), content(b)) }, a, b)
}

// until waits until problem returns an empty text, asking at each change of one of the stores.
func until(t *testing.T, problem func() string, stores ...*state.Store) {
	t.Helper()
	deadline := time.After(patience)
	for {
		changed := [2]<-chan struct{}{}
		for i, s := range stores {
			changed[i] = s.Changed()
		}
		text := problem()
		if text == "" {
			return
		}
		select {
		case <-changed[0]:
		case <-changed[1]:
		case <-deadline:
			t.Fatal(text[:min(len(text), 4000)])
		}
	}
}

func put(t *testing.T, s *state.Store, key, value string) {
	t.Helper()
	if err := s.Put("name", key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func TestRowsTravelBothWays(t *testing.T) {
	a, b := openStore(t, state.Options{Self: "a"}), openStore(t, state.Options{Self: "b"})
	put(t, a, "web", "before")
	put(t, b, "db", "before")
	server, client := syncer(t, a), syncer(t, b)
	conn, _ := serve(t, server)
	with(t, client, conn)
	same(t, a, b)
	put(t, a, "web", "after")
	put(t, b, "web", "of b")
	if err := b.Delete("name", "db"); err != nil {
		t.Fatal(err)
	}
	want := []string{"a name/web = after", "b name/web = of b"}
	for _, s := range []*state.Store{a, b} {
		until(t, func() string { return cmp.Diff(content(s), want) }, s)
	}
	select {
	case <-client.CaughtUp():
	case <-time.After(patience):
		t.Error("the client does not say that it caught up")
	}
}

func TestRowsGoOnThroughAThird(t *testing.T) {
	a, b, m := openStore(t, state.Options{Self: "a"}), openStore(t, state.Options{Self: "b"}), openStore(t, state.Options{})
	conn, _ := serve(t, syncer(t, m))
	ca, cb := syncer(t, a), syncer(t, b)
	with(t, ca, conn)
	with(t, cb, conn)
	put(t, a, "web", "1")
	until(t, func() string { return cmp.Diff(content(b), []string{"a name/web = 1"}) }, b)
	// What came from the other side is not sent back to it.
	if n := cb.Stats().Sent; n != 0 {
		t.Errorf("b sent %d rows, it has none of its own", n)
	}
}

func TestTenThousandRowsAndARestart(t *testing.T) {
	const n = 10_000
	dir := t.TempDir()
	a := openStore(t, state.Options{Self: "a"})
	var rows []discovery.Row
	value := strings.Repeat("v", 300)
	for i := range n {
		rows = append(rows, discovery.Row{
			Writer: discovery.Ledger, Kind: "name", Key: fmt.Sprint(i), Incarnation: 1, Seq: uint64(i + 1), Value: []byte(value),
		})
	}
	if _, err := a.Apply(rows); err != nil {
		t.Fatal(err)
	}
	server := syncer(t, a)
	conn, _ := serve(t, server)

	b := openStore(t, state.Options{Self: "b", Dir: dir})
	begin := time.Now()
	stop := with(t, syncer(t, b), conn)
	same(t, a, b)
	t.Logf("%d rows of %d bytes arrived after %v", n, len(value), time.Since(begin).Round(time.Millisecond))
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("end of the exchange: %v, want Canceled", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	// While b is away things change; after its restart only they travel.
	rows = rows[:0]
	for i := range 10 {
		rows = append(rows, discovery.Row{
			Writer: discovery.Ledger, Kind: "name", Key: fmt.Sprint(i), Incarnation: 1, Seq: uint64(n + i + 1), Deleted: i%2 == 0, Value: []byte("new"),
		})
	}
	if _, err := a.Apply(rows); err != nil {
		t.Fatal(err)
	}
	b = openStore(t, state.Options{Self: "b", Dir: dir})
	client := syncer(t, b)
	with(t, client, conn)
	same(t, a, b)
	if got := client.Stats().Received; got != 10 {
		t.Errorf("%d rows travelled after the restart, want 10", got)
	}
}

func TestServerRestartsWithEmptyMemory(t *testing.T) {
	b := openStore(t, state.Options{Self: "b"})
	put(t, b, "web", "1")
	client := syncer(t, b)
	for range 3 {
		m := openStore(t, state.Options{})
		conn, stopServer := serve(t, syncer(t, m))
		stop := with(t, client, conn)
		same(t, b, m)
		stopServer()
		if err := stop(); err == nil {
			t.Error("an exchange ends without an error")
		}
	}
}

// slowLink is the other side of an exchange that reads when told to.
type slowLink struct {
	done <-chan struct{}
	in   chan *SyncMessage // to the exchange
	out  chan *SyncMessage // from it, capacity 0: a sender waits for the reader
}

func newSlowLink(ctx context.Context) *slowLink {
	return &slowLink{done: ctx.Done(), in: make(chan *SyncMessage), out: make(chan *SyncMessage)}
}

func (l *slowLink) Send(m *SyncMessage) error {
	select {
	case l.out <- m:
		return nil
	case <-l.done:
		return context.Canceled
	}
}

func (l *slowLink) Recv() (*SyncMessage, error) {
	select {
	case m := <-l.in:
		return m, nil
	case <-l.done:
		return nil, context.Canceled
	}
}

func TestSlowReaderGetsTheLatestOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openStore(t, state.Options{Self: "a"})
		put(t, a, "web", "0")
		s := syncer(t, a)
		ctx, cancel := context.WithCancel(t.Context())
		l := newSlowLink(ctx)
		ended := make(chan error, 1)
		go func() { ended <- s.newExchange(l, nil).run(ctx) }()
		if (<-l.out).GetDigest() == nil {
			t.Fatal("the first message is no digest")
		}
		l.in <- &SyncMessage{Body: &SyncMessage_Digest{Digest: &Digest{}}}
		// The reader does not read while a thousand changes are made.
		for i := range 1000 {
			put(t, a, "web", fmt.Sprint(i+1))
		}
		synctest.Wait()
		var seen []string
		for len(seen) == 0 || seen[len(seen)-1] != "1000" {
			for _, r := range (<-l.out).GetBatch().GetRows() {
				seen = append(seen, string(r.GetValue()))
			}
		}
		if len(seen) > 2 {
			t.Errorf("a reader that slept got %d versions of one row, want at most 2", len(seen))
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("exchange: %v, want Canceled", err)
		}
		s.Close()
	})
}

// Who hears a lot has to say now and then that it lives, though it has nothing to tell.
func TestWhoOnlyHearsSaysThatItLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openStore(t, state.Options{Self: "a"})
		s := syncer(t, a)
		ctx, cancel := context.WithCancel(t.Context())
		l := newSlowLink(ctx)
		ended := make(chan error, 1)
		go func() { ended <- s.newExchange(l, nil).run(ctx) }()
		<-l.out // the digest
		l.in <- &SyncMessage{Body: &SyncMessage_Digest{Digest: &Digest{}}}
		last, longest := time.Now(), time.Duration(0)
		tick := time.NewTicker(aliveEvery / 10)
		defer tick.Stop()
		for seq := uint64(1); seq < 100; {
			select {
			case <-l.out:
				longest = max(longest, time.Since(last))
				last = time.Now()
			case <-tick.C:
				l.in <- &SyncMessage{Body: &SyncMessage_Batch{Batch: &Batch{
					Writer: "b", Incarnation: 1, From: seq - 1, To: seq, Reset_: seq == 1, Rows: []*BatchRow{{Kind: "node", Key: "b", Seq: seq}},
				}}}
				seq++
			}
		}
		if longest = max(longest, time.Since(last)); longest > 2*aliveEvery {
			t.Errorf("silent for %v, want %v at most", longest, 2*aliveEvery)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("exchange: %v, want Canceled", err)
		}
		s.Close()
	})
}

// What should never happen, that one side lacks what the other takes for sent, is mended by the next digest.
func TestWhatWasLostComesWithTheNextDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openStore(t, state.Options{Self: "a"})
		put(t, a, "web", "1")
		s := syncer(t, a)
		ctx, cancel := context.WithCancel(t.Context())
		l := newSlowLink(ctx)
		ended := make(chan error, 1)
		go func() { ended <- s.newExchange(l, nil).run(ctx) }()
		digest := func() *SyncMessage { return &SyncMessage{Body: &SyncMessage_Digest{Digest: &Digest{}}} }
		began := time.Now()
		batches, digests := 0, 0
		tick := time.NewTicker(aliveEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case m := <-l.out:
				batches += len(m.GetBatch().GetRows())
				if m.GetDigest() == nil {
					continue
				}
				if digests++; digests == 2 && batches != 1 {
					t.Errorf("%d rows were sent, want the one", batches)
				}
				if digests == 2 || digests == 1 {
					l.in <- digest() // and it says that it has nothing
				}
			case <-tick.C:
				l.in <- &SyncMessage{Body: &SyncMessage_Alive{Alive: &Alive{}}}
			}
			if digests == 2 && batches == 2 {
				break
			}
			if time.Since(began) > 2*digestEvery+time.Minute {
				t.Errorf("%d digests and %d rows after %v", digests, batches, time.Since(began))
				break
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("exchange: %v, want Canceled", err)
		}
		s.Close()
	})
}

func TestSlowReaderOverTheWire(t *testing.T) {
	a, b := openStore(t, state.Options{Self: "a"}), openStore(t, state.Options{Self: "b"})
	server := syncer(t, a)
	conn, _ := serve(t, server)
	stream, err := NewSyncClient(conn).Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&SyncMessage{Body: &SyncMessage_Digest{Digest: digestOut(b.Digest())}}); err != nil {
		t.Fatal(err)
	}
	asleep := make(chan struct{})
	defer func() { <-asleep }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // it sleeps, but it lives
		defer close(asleep)
		for tick := time.NewTicker(aliveEvery); ctx.Err() == nil && stream.Send(&SyncMessage{Body: &SyncMessage_Alive{Alive: &Alive{}}}) == nil; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
			}
		}
	}()
	// Far more than the stream holds is written while nobody reads.
	value := strings.Repeat("v", 10_000)
	const writes = 2000
	for i := range writes {
		put(t, a, fmt.Sprint(i%100), value+fmt.Sprint(i))
	}
	received := 0
	var whole batchIn
	for cmp.Diff(content(a), content(b)) != "" {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if piece := m.GetBatch(); piece != nil {
			if complete, err := whole.add(piece); err != nil {
				t.Fatal(err)
			} else if complete {
				batch := whole.take()
				received += len(batch.Rows)
				if _, err := b.ApplyBatch(batch); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if received >= writes {
		t.Errorf("%d rows were sent to a reader that slept, %d were written", received, writes)
	}
	t.Logf("%d of %d versions were sent", received, writes)
}

func TestSilenceEndsAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openStore(t, state.Options{Self: "a"})
		s := syncer(t, a)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		l := newSlowLink(ctx)
		go func() {
			for {
				select {
				case <-l.out:
				case <-ctx.Done():
					return
				}
			}
		}()
		begin := time.Now()
		err := s.newExchange(l, nil).run(ctx)
		if !errors.Is(err, ErrSilent) {
			t.Errorf("exchange: %v, want ErrSilent", err)
		}
		if took := time.Since(begin); took < silentAfter || took > silentAfter+2*aliveEvery {
			t.Errorf("silence noticed after %v, want about %v", took, silentAfter)
		}
		cancel()
		s.Close()
	})
}

func TestIdleExchangeLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := syncer(t, openStore(t, state.Options{Self: "a"})), syncer(t, openStore(t, state.Options{Self: "b"}))
		ctx, cancel := context.WithCancel(t.Context())
		l := newSlowLink(ctx)
		back := &slowLink{done: ctx.Done(), in: l.out, out: l.in}
		ended := make(chan error, 2)
		go func() { ended <- a.newExchange(l, nil).run(ctx) }()
		go func() { ended <- b.newExchange(back, nil).run(ctx) }()
		select {
		case err := <-ended:
			t.Errorf("an idle exchange ended: %v", err)
		case <-time.After(time.Hour):
		}
		cancel()
		a.Close()
		b.Close()
	})
}

func TestGapIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := openStore(t, state.Options{Self: "a"})
		s := syncer(t, a)
		ctx, cancel := context.WithCancel(t.Context())
		l := newSlowLink(ctx)
		go func() { _ = s.newExchange(l, nil).run(ctx) }()
		next := func() *SyncMessage { return <-l.out }
		next() // digest
		l.in <- &SyncMessage{Body: &SyncMessage_Digest{Digest: &Digest{}}}
		batch := &Batch{Writer: "b", Incarnation: 1, From: 5, To: 6, Rows: []*BatchRow{{Kind: "name", Key: "x", Seq: 6}}}
		l.in <- &SyncMessage{Body: &SyncMessage_Batch{Batch: batch}}
		for {
			m := next()
			if d := m.GetDigest(); d != nil {
				if p, ok := digestIn(d).Known[discovery.Stream{Writer: "b"}]; ok {
					t.Errorf("position %v of a writer whose rows did not fit", p)
				}
				break
			}
		}
		if s.Stats().Gaps != 1 {
			t.Errorf("gaps %d, want 1", s.Stats().Gaps)
		}
		cancel()
		s.Close()
	})
}

func TestBadBatchEndsTheStream(t *testing.T) {
	row := []*BatchRow{{Kind: "name", Key: "x", Seq: 1}}
	for name, batches := range map[string][]*Batch{
		"row outside":        {{Writer: "b", Incarnation: 1, To: 6, Rows: []*BatchRow{{Kind: "name", Key: "x", Seq: 7}}}},
		"no incarnation":     {{Writer: "b", To: 6, Rows: row}},
		"no writer":          {{Incarnation: 1, To: 6, Rows: row}},
		"goes on as another": {{Writer: "b", Incarnation: 1, To: 6, More: true}, {Writer: "c", Incarnation: 1, To: 6}},
		"reset from 3":       {{Writer: "b", Incarnation: 1, From: 3, To: 6, Reset_: true}},
	} {
		t.Run(name, func(t *testing.T) {
			a := openStore(t, state.Options{Self: "a"})
			conn, _ := serve(t, syncer(t, a))
			stream, err := NewSyncClient(conn).Exchange(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&SyncMessage{Body: &SyncMessage_Digest{Digest: &Digest{}}}); err != nil {
				t.Fatal(err)
			}
			for _, b := range batches {
				if err := stream.Send(&SyncMessage{Body: &SyncMessage_Batch{Batch: b}}); err != nil {
					t.Fatal(err)
				}
			}
			for err == nil {
				_, err = stream.Recv()
			}
			if status.Code(err) != codes.Aborted {
				t.Errorf("stream ended with %v, want Aborted", err)
			}
			if got := a.Rows(""); len(got) > 0 {
				t.Errorf("rows of a bad batch were taken: %v", got)
			}
		})
	}
}

func TestBatchIsCutAndPutTogether(t *testing.T) {
	batch := state.Batch{Stream: discovery.Stream{Writer: "b", Topic: discovery.Topic{Kind: "endpoint"}}, Incarnation: 3, From: 4, To: 40}
	for i := range 36 {
		batch.Rows = append(batch.Rows, discovery.Row{
			Writer: "b", Kind: "endpoint", Key: fmt.Sprint(i), Incarnation: 3, Seq: uint64(i + 5), Value: make([]byte, 100_000),
		})
	}
	var in batchIn
	messages := 0
	for m := range batchOut(batch) {
		messages++
		complete, err := in.add(m.GetBatch())
		if err != nil {
			t.Fatal(err)
		}
		if complete != !m.GetBatch().GetMore() {
			t.Errorf("message %d: complete %v", messages, complete)
		}
	}
	if messages != 6 {
		t.Errorf("%d messages, want 6", messages)
	}
	if diff := cmp.Diff(in.take(), batch, cmp.Comparer(bytes.Equal)); diff != "" {
		t.Errorf("batch (-got +want):\n%s", diff)
	}
}
