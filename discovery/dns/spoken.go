// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	wire "github.com/miekg/dns"

	"weft/discovery/zone"
)

// Limits of what is remembered as it was sent.
const (
	spokenMost  = 32 << 20 // bytes, of answers
	missingMost = 4 << 20  // bytes, of answers that a name is missing: random ones push out no other
	spokenEach  = 200      // bytes that one takes beside its texts, about
	forms       = 8        // of an answer that is another one each time
	formUses    = 16       // how often one of them is given before it is made anew
)

// spoken is what was said of one zone in place of Mesos-DNS, over UDP, by the question's bytes behind its number: to the same
// bytes the same are an answer again, whatever rules made them. Where order or choice of records was by lot there are several
// forms of an answer, each for a few times.
type spoken struct {
	zone *zone.Zone

	mu            sync.RWMutex
	answers       map[string]*answerForms
	left, missing int // bytes that may still be taken
}

type answerForms struct {
	rcode int
	forms [forms]atomic.Pointer[form]
}

// form is an answer as it was sent.
type form struct {
	text []byte
	lot  bool         // another one would be as good
	left atomic.Int32 // how often it may be given, if so
}

func newSpoken(z *zone.Zone) *spoken {
	return &spoken{zone: z, answers: map[string]*answerForms{}, left: spokenMost, missing: missingMost}
}

// numberSize is what a message begins with: the number by which its asker knows the answer.
const numberSize = 2

// again appends what was said to a question to out.
func (s *spoken) again(out, msg []byte) (_ []byte, rcode int, hit bool) {
	if len(msg) < numberSize {
		return nil, 0, false
	}
	s.mu.RLock()
	a := s.answers[string(msg[numberSize:])]
	s.mu.RUnlock()
	if a == nil {
		return nil, 0, false
	}
	f := a.forms[0].Load()
	if f.lot {
		if f = a.forms[rand.IntN(forms)].Load(); f == nil || f.left.Add(-1) < 0 {
			return nil, 0, false // the next is made anew
		}
	}
	out = append(out, msg[:numberSize]...)
	return append(out, f.text[numberSize:]...), a.rcode, true
}

// keep remembers what was said to a question about a name in z.
func (s *spoken) keep(m *wire.Msg, z *zone.Zone, rcode int, text []byte, lot bool) {
	if s.zone != z || len(m.Answer)+len(m.Ns) > 0 || len(m.Extra) > 1 || hasCapital(m.Question[0].Name) {
		return // of another zone; what nobody asks twice
	}
	asked, err := m.Pack()
	if err != nil {
		return
	}
	next := &form{text: text, lot: lot}
	next.left.Store(formUses)
	s.mu.Lock()
	defer s.mu.Unlock()
	left := &s.left
	if rcode == wire.RcodeNameError {
		left = &s.missing
	}
	key := string(asked[numberSize:])
	a := s.answers[key]
	size := len(text) + spokenEach
	if a == nil {
		size += len(key)
	}
	if a != nil && !lot || *left < size {
		return
	}
	if a == nil {
		a = &answerForms{rcode: rcode}
		s.answers[key] = a
	}
	place := a.place()
	if was := a.forms[place].Swap(next); was != nil {
		size -= len(was.text) + spokenEach
	}
	*left -= size
}

// place is where the next form goes: where there is none, or one that was given often enough.
func (a *answerForms) place() int {
	for i := range a.forms {
		if f := a.forms[i].Load(); f == nil || f.left.Load() <= 0 {
			return i
		}
	}
	return rand.IntN(forms)
}

// hasCapital tells of names whose letters were made capitals by lot, which comes once.
func hasCapital(name string) bool {
	for i := range len(name) {
		if name[i] >= 'A' && name[i] <= 'Z' {
			return true
		}
	}
	return false
}
