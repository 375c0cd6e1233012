// SPDX-License-Identifier: Apache-2.0

package free

import (
	"math"
	"strings"

	"weft/overlay"
)

// Bounds of the identities of sets of groups. The VXLAN group policy field has 16 bits.
const (
	FirstIdentity = 16 // what is below is reserved (bpf/src/shared/task.h, IDENTITY_FIRST)
	LastIdentity  = math.MaxUint16
)

// Identities walks the free identities of a network.
type Identities struct {
	known map[string]overlay.GroupSet // sets that have one, by groups joined with commas
	used  map[overlay.Identity]bool
	at    int
}

// NewIdentities returns those of a network, in which all are free.
func NewIdentities() *Identities {
	return &Identities{known: map[string]overlay.GroupSet{}, used: map[overlay.Identity]bool{}, at: FirstIdentity}
}

// Take makes a set's identity its own.
func (i *Identities) Take(set overlay.GroupSet) {
	i.known[strings.Join(set.Groups, ",")] = set
	i.used[set.Identity] = true
}

// Set returns the set of these groups, sorted; false when it has no identity.
func (i *Identities) Set(groups []string) (overlay.GroupSet, bool) {
	set, ok := i.known[strings.Join(groups, ",")]
	return set, ok
}

// Given is how many identities sets have.
func (i *Identities) Given() int { return len(i.used) }

// Next returns the lowest free identity and gives it to the set of these groups; false when there is none.
func (i *Identities) Next(groups []string) (overlay.Identity, bool) {
	for ; i.at <= LastIdentity; i.at++ {
		if id := overlay.Identity(i.at); !i.used[id] {
			i.Take(overlay.GroupSet{Groups: groups, Identity: id})
			return id, true
		}
	}
	return 0, false
}
