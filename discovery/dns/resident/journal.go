// SPDX-License-Identifier: Apache-2.0

package resident

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	wire "github.com/miekg/dns"
)

// The journal lists what was put into the kernel's cache, before it is put, so that the next process
// knows at least what the kernel knows. It is not synced: it has to outlive the process, not the
// machine, as does the kernel's cache.
//
//	file:   magic (8) record ...
//	record: vni (4) type (2) name in wire form, with the root's byte      big endian
const journalMagic = "weftdns1"

var errClosed = os.ErrClosed

// journal is guarded by Answers.mu. A nil journal remembers nothing.
type journal struct {
	path    string
	file    *os.File
	records int
}

// openJournal returns what the file lists; whole is false when the file is new or broken, so that the
// kernel may know more. An empty path gives a nil journal. On a disk that is full a whole file is used as it is: names
// are answered for want of a new one.
func openJournal(path string) (j *journal, keys []Key, whole bool, err error) {
	if path == "" {
		return nil, nil, false, nil
	}
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, false, fmt.Errorf("journal of kernel answers: %w", err)
	}
	keys, whole = parseJournal(content)
	j = &journal{path: path}
	err = j.rewrite(keys)
	if err != nil && whole {
		j.records = len(keys)
		j.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
	}
	if err != nil {
		return nil, nil, false, err
	}
	return j, keys, whole, nil
}

// parseJournal returns the records up to the first broken one.
func parseJournal(content []byte) (keys []Key, whole bool) {
	rest, ok := bytes.CutPrefix(content, []byte(journalMagic))
	if !ok {
		return nil, false
	}
	const fixed = 6
	for len(rest) > 0 {
		if len(rest) <= fixed {
			return keys, false
		}
		k := Key{VNI: binary.BigEndian.Uint32(rest), Type: binary.BigEndian.Uint16(rest[4:])}
		name, next, err := wire.UnpackDomainName(rest[:min(len(rest), fixed+256)], fixed)
		if err != nil || !plain(rest[fixed:next], name) {
			return keys, false
		}
		k.Name = name
		keys = append(keys, k)
		rest = rest[next:]
	}
	return keys, true
}

// plain reports whether name packs to the bytes it was read from: no pointers.
func plain(packed []byte, name string) bool {
	again, err := wireName(name)
	return err == nil && bytes.Equal(packed, again)
}

func appendKey(b []byte, k Key) ([]byte, error) {
	qname, err := wireName(k.Name)
	if err != nil {
		return nil, err
	}
	return appendMemoryKey(b, k.VNI, k.Type, qname), nil
}

// add appends one record in one write.
func (j *journal) add(p *Lesson) error {
	if j == nil {
		return nil
	}
	if _, err := j.file.Write(p.key); err != nil {
		return err
	}
	j.records++
	return nil
}

func (j *journal) length() int {
	if j == nil {
		return 0
	}
	return j.records
}

// rewrite replaces the file by one with just these records.
func (j *journal) rewrite(keys []Key) error {
	b := []byte(journalMagic)
	for _, k := range keys {
		var err error
		if b, err = appendKey(b, k); err != nil {
			return fmt.Errorf("journal of kernel answers: %w", err)
		}
	}
	fresh := j.path + ".new"
	file, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("journal of kernel answers: %w", err)
	}
	if _, err = file.Write(b); err == nil {
		err = os.Rename(fresh, j.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("journal of kernel answers: %w", err), file.Close())
	}
	if j.file != nil {
		err = j.file.Close()
	}
	j.file, j.records = file, len(keys)
	return err
}

func (j *journal) close() error {
	if j == nil {
		return nil
	}
	return j.file.Close()
}
