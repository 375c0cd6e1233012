// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"testing"
)

// packed puts messages into one packet.
func packed(messages ...string) []byte {
	packet := []byte{checkedType, 1, 2, 3, 4, compoundType, byte(len(messages))}
	for _, m := range messages {
		packet = binary.BigEndian.AppendUint16(packet, uint16(len(m)))
	}
	for _, m := range messages {
		packet = append(packet, m...)
	}
	return packet
}

// A member reads each rumour once, and whatever is no rumour each time.
func TestRumoursAreHeardOnce(t *testing.T) {
	const ping, alive, dead, user = "\x00who", "\x04n1 lives", "\x05n2 is dead", "\x08n3 joined"
	r := newRumours()
	for _, step := range []struct {
		name         string
		packet, want []byte
	}{
		{"two at once", packed(ping, alive), packed(ping, alive)[checkedBytes:]},
		{"one of them is old", packed(ping, alive, dead), packed(ping, dead)[checkedBytes:]},
		{"all are old", packed(dead, alive), nil},
		{"alone", []byte(user), []byte(user)},
		{"alone and old", []byte(user), nil},
		{"a ping alone", []byte(ping), []byte(ping)},
		{"the same ping", []byte(ping), []byte(ping)},
		{"cut off", packed(alive, dead)[:12], packed(alive, dead)[checkedBytes:12]},
		{"nothing", nil, nil},
	} {
		if got := r.news(step.packet); string(got) != string(step.want) {
			t.Errorf("%s: %q, want %q", step.name, got, step.want)
		}
	}
}
