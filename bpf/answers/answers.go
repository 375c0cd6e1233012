// SPDX-License-Identifier: Apache-2.0

// Package answers is the kernel's cache of DNS answers: it turns an answer into the row that the kernel
// half reads, and forgets it again. What is answered, and when it no longer holds, is the name server's
// to say (discovery/dns).
package answers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"weft/bpf/row"
	"weft/bpf/table"
)

// Sentinels of this room; test with errors.Is.
var (
	// ErrTooLong says that the records of an answer do not fit a row: the server keeps answering.
	ErrTooLong = errors.New("answer is too long for the kernel")
	// ErrInvalid says that a question or answer is not well-formed.
	ErrInvalid = errors.New("invalid")
)

// maxName is the longest name in wire form, bytes (RFC 1035 section 3.1).
const maxName = 255

// Cache is the kernel's answers. It is a cache: the kernel drops what is asked least when it is full.
// Its methods may be called from several goroutines.
//
// An answer is in the map of its size. The kernel half asks the short ones first, so a short one hides a
// long one of the same question. Both are there while one takes the other's place, and after a process
// that was killed between the two steps; whatever is done next to that question leaves one, or none. So
// the name server puts or deletes anew all that an earlier process put. Until then the kernel may drop
// the short one of such a pair, and gives the long one: another answer from before.
type Cache struct {
	short table.Table[row.DNSKey, row.DNSAnswer]
	long  table.Table[row.DNSKey, row.DNSLong]
	puts  atomic.Uint32 // marks of answers
}

// New returns the cache over the maps dns_answers and dns_long, or other forms of them.
func New(short table.Table[row.DNSKey, row.DNSAnswer], long table.Table[row.DNSKey, row.DNSLong]) *Cache {
	c := &Cache{short: short, long: long}
	c.puts.Store(rand.Uint32()) // an earlier process left marks, too
	return c
}

// Put makes the kernel answer qname (wire form with the root's byte, any case) of type qtype, asked in
// the view of vni (0: the host), with data: the records that follow the question, compression pointers
// counted from the start of the message, with the question at offset 12 (RFC 1035 section 4.1.4).
// rotate is the size of an answer record when all answer records have one size and are to be rotated
// per query, else 0. Until the new answer is given an earlier one is. After an error either may be given:
// the caller deletes the answer.
//
//nolint:revive // argument-limit: plain values, so that the name server needs no type of ours
func (c *Cache) Put(vni uint32, qname []byte, qtype uint16, rcode uint8, ancount, nscount, arcount uint16,
	rotate uint8, data []byte,
) error {
	if err := checkName(qname); err != nil {
		return err
	}
	if len(data) > row.DNSLongData {
		return fmt.Errorf("%w: %d bytes of records, %d is the most", ErrTooLong, len(data), row.DNSLongData)
	}
	if rcode > 15 {
		return fmt.Errorf("rcode %d: %w: at most 15 without EDNS", rcode, ErrInvalid)
	}
	if n := int(rotate) * int(ancount); n > len(data) {
		return fmt.Errorf("rotate %d of %d answers: %w: they are longer than the %d bytes of records",
			rotate, ancount, ErrInvalid, len(data))
	}
	if rotate%2 != 0 {
		return fmt.Errorf("rotate %d: %w: an even number, by which their sum (RFC 1071) stays the same", rotate, ErrInvalid)
	}
	key := row.DNSKeyOf(vni, qname, qtype)
	long := row.DNSLong{
		Len: uint16(len(data)), Rcode: rcode, Rotate: rotate, Ancount: ancount, Nscount: nscount, Arcount: arcount,
	}
	mark := uint16(c.puts.Add(1))
	if len(data) <= row.DNSData {
		short := row.DNSAnswer{
			Len: long.Len, Rcode: rcode, Rotate: rotate, Ancount: ancount, Nscount: nscount, Arcount: arcount,
		}
		copy(short.Data[:], data)
		short.Seal(key, mark)
		return c.putShort(key, short)
	}
	copy(long.Data[:], data)
	long.Seal(key, mark)
	return c.putLong(key, long)
}

// putShort hides an earlier long answer at once, and then deletes it.
func (c *Cache) putShort(key row.DNSKey, a row.DNSAnswer) error {
	if err := c.short.Put(key, a); err != nil {
		return err
	}
	return c.long.Delete(key)
}

// putLong puts the answer behind an earlier short one, and then deletes that.
func (c *Cache) putLong(key row.DNSKey, a row.DNSLong) error {
	if err := c.long.Put(key, a); err != nil {
		return err
	}
	return c.short.Delete(key)
}

// Delete makes the kernel leave that question to the server. What is not there is no error.
func (c *Cache) Delete(vni uint32, qname []byte, qtype uint16) error {
	if err := checkName(qname); err != nil {
		return err
	}
	return c.delete(row.DNSKeyOf(vni, qname, qtype))
}

// delete takes the long one first: when that is refused, what hides it stays.
func (c *Cache) delete(key row.DNSKey) error {
	if err := c.long.Delete(key); err != nil {
		return err
	}
	return c.short.Delete(key)
}

// Clear makes the kernel leave every question to the server, which fills the cache again.
func (c *Cache) Clear() error {
	if _, err := table.Sync(c.long, nil); err != nil { // first, as in delete
		return err
	}
	_, err := table.Sync(c.short, nil)
	return err
}

// Len returns how many answers the kernel holds.
func (c *Cache) Len() (int, error) {
	short, err := c.short.All()
	if err != nil {
		return 0, err
	}
	long, err := c.long.All()
	return len(short) + len(long), err
}

// checkName walks the labels of a wire name: without pointers, ended by the root, 255 bytes at most.
func checkName(qname []byte) error {
	if len(qname) > maxName {
		return fmt.Errorf("name of %d bytes: %w: at most %d", len(qname), ErrInvalid, maxName)
	}
	at := 0
	for at < len(qname) && qname[at] != 0 {
		if qname[at] > 63 {
			return fmt.Errorf("name with label length %d at byte %d: %w: at most 63", qname[at], at, ErrInvalid)
		}
		at += 1 + int(qname[at])
	}
	if at != len(qname)-1 {
		return fmt.Errorf("name of %d bytes: %w: its root is not its last byte", len(qname), ErrInvalid)
	}
	return nil
}
