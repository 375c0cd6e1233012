// SPDX-License-Identifier: Apache-2.0

package interest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weft/discovery"
	"weft/discovery/state"
)

// others is what masters and nodes say.
type others struct {
	mu      sync.Mutex
	held    uint64
	shared  uint64
	changed chan struct{}
	master  atomic.Bool
}

func (o *others) say(held, shared uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held, o.shared = held, shared
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *others) Held() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held
}

func (o *others) Shared(version uint64) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.shared >= version {
		return 1
	}
	return 0
}

func (o *others) Answered() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

// world is a node's store with its interest, in simulated time.
type world struct {
	*others
	store *state.Store
	*Interest
	past sync.Mutex // guards what follows
	cool []discovery.Topic
	left int
}

func (w *world) cooled() []discovery.Topic {
	w.past.Lock()
	defer w.past.Unlock()
	return slices.Clone(w.cool)
}

func (w *world) timesLeft() int {
	w.past.Lock()
	defer w.past.Unlock()
	return w.left
}

func run(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{others: &others{changed: make(chan struct{})}}
		w.master.Store(true)
		var err error
		if w.store, err = state.Open(state.Options{Self: "a"}); err != nil {
			t.Fatal(err)
		}
		w.Interest, err = New(Options{
			Store: w.store, Answers: w.others, Master: w.master.Load,
			Cool: func(topics []discovery.Topic) {
				w.past.Lock()
				defer w.past.Unlock()
				w.cool = append(w.cool, topics...)
			},
			Left: func() {
				w.past.Lock()
				defer w.past.Unlock()
				w.left++
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		f(t, w)
	})
}

func (w *world) taken() []discovery.Topic {
	topics, _ := w.store.Interest()
	return topics
}

var web, db = discovery.NameTopic("web"), discovery.NameTopic("db")

func TestTheFirstQuestionWaitsForAnAnswerAndOthersDoNot(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		t.Helper()
		began := time.Now()
		go func() {
			time.Sleep(30 * time.Millisecond)
			_, version := w.store.Interest()
			w.say(version, 0)
		}()
		if !w.Use(t.Context(), web) || time.Since(began) != 30*time.Millisecond {
			t.Errorf("not held after %v", time.Since(began))
		}
		if !w.Use(t.Context(), web) || time.Since(began) != 30*time.Millisecond {
			t.Error("the second question waited")
		}
		if w.Use(t.Context(), web, db) || time.Since(began) != 30*time.Millisecond+DefaultPatience {
			t.Errorf("db is held, or was waited for %v", time.Since(began))
		}
		if w.Use(t.Context(), db) || time.Since(began) != 30*time.Millisecond+DefaultPatience {
			t.Error("nobody answers, and every question waits for that")
		}
		if !w.Holds(web) || w.Holds(web, db) || w.Holds(discovery.NameTopic("cache")) || len(w.taken()) != 2 {
			t.Errorf("who can't wait is told otherwise, or took what is not held: %v", w.taken())
		}
	})
}

func TestWhatNobodyAsksForCoolsAndGoes(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		t.Helper()
		w.say(99, 0)
		w.Use(t.Context(), web, db)
		time.Sleep(DefaultIdle / 2)
		w.Use(t.Context(), db)
		time.Sleep(DefaultIdle/2 + DefaultColdFor/2)
		if !slices.Equal(w.cooled(), []discovery.Topic{web}) || len(w.taken()) != 2 {
			t.Fatalf("cooled %v, taken %v; want web alone cooled, both taken", w.cooled(), w.taken())
		}
		time.Sleep(DefaultColdFor)
		if !slices.Equal(w.taken(), []discovery.Topic{db}) || w.timesLeft() != 1 {
			t.Fatalf("taken %v, left %d times; want db, once", w.taken(), w.timesLeft())
		}
		time.Sleep(DefaultIdle / 2)
		if !slices.Contains(w.cooled(), db) {
			t.Fatal("db is not cooled")
		}
		w.Use(t.Context(), db) // answers are asked for here again
		time.Sleep(2 * DefaultColdFor)
		if !slices.Equal(w.taken(), []discovery.Topic{db}) {
			t.Fatalf("taken %v, want db: it is in use", w.taken())
		}
	})
}

func TestAllNamesAreTakenWhileNoMasterAnswers(t *testing.T) {
	every := discovery.Topic{Kind: discovery.KindName, Of: discovery.Every}
	run(t, func(t *testing.T, w *world) {
		t.Helper()
		w.say(99, 0)
		w.Use(t.Context(), web)
		w.master.Store(false)
		w.say(1, 0)
		time.Sleep(grace / 2)
		if slices.Contains(w.taken(), every) {
			t.Error("a master that is replaced at once is a reason to take all names")
		}
		time.Sleep(grace)
		if !slices.Contains(w.taken(), every) {
			t.Fatal("all names are not taken")
		}
		if !w.Use(t.Context(), web) {
			t.Error("what a master had vouched for is doubted")
		}
		if w.Use(t.Context(), db) {
			t.Error("a name is held that nobody has answered for")
		}
		_, version := w.store.Interest()
		w.say(1, version)
		time.Sleep(spread)
		if !w.Use(t.Context(), db) {
			t.Error("all names came from nodes, and db is not held")
		}
		w.master.Store(true)
		time.Sleep(10 * look)
		if !slices.Contains(w.taken(), every) {
			t.Error("names were left before a master vouched for those in use")
		}
		w.say(version+9, version)
		time.Sleep(2 * look)
		if !slices.Equal(w.taken(), []discovery.Topic{db, web}) || w.timesLeft() != 1 {
			t.Errorf("taken %v, left %d times; want what was asked for, once", w.taken(), w.timesLeft())
		}
	})
}

// A task that asks for ever new names makes its node hold all names, not ever more topics.
func TestManyNamesAreHeldAsAll(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		t.Helper()
		w.say(1<<32, 0)
		w.Use(t.Context(), web)
		for n := range 2 * maxTopics {
			random := discovery.NameTopic(fmt.Sprint("random-", n))
			if held := w.Holds(random, db); held != (n > maxTopics-2) {
				t.Fatalf("question %d is held before: %t", n, held)
			}
			if !w.Use(t.Context(), random, db) {
				t.Fatalf("question %d is not held", n)
			}
		}
		if taken := w.taken(); len(taken) > maxTopics+2 || !slices.Contains(taken, everyName) || !slices.Contains(taken, db) {
			t.Fatalf("%d topics are taken, all names among them %t", len(taken), slices.Contains(taken, everyName))
		}
		for range 4 { // it is over: what is asked for stays
			time.Sleep(DefaultIdle / 2)
			w.Holds(web)
		}
		if taken := w.taken(); !slices.Equal(taken, []discovery.Topic{web}) || !slices.Contains(w.cooled(), everyName) {
			t.Errorf("%d topics are taken, want web alone", len(taken))
		}
	})
}
