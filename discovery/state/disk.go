// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-memdb"
	"golang.org/x/sys/unix"
)

// The state file is a header and records:
//
//	header  "WEFTROWS" version(1) length(2) self
//	record  magic(4) length(4) crc32c(4) operations
//
// Numbers are big endian; the sum covers length and operations. A record is one group of changes:
// after a crash all of it is there or nothing. A snapshot is the same, with the operations that make
// everything anew; it takes the file's place by rename.
const (
	fileName      = "rows.log"
	fileMagic     = "WEFTROWS"
	fileVersion   = 1
	fileHeader    = len(fileMagic) + 1 + 2
	recordMagic   = 0x57eff0a1
	recordHeader  = 12
	snapshotPiece = 256 << 10 // bytes of one record of a snapshot
	growth        = 4         // times the last snapshot, then a new one is written
	growthSlack   = 1 << 20   // bytes
	maxRecord     = 1 << 30   // bytes
)

// disk is the folder of a store; guarded by Store.commitMu. A nil disk keeps nothing.
type disk struct {
	dir, path, self string
	lock            *os.File
	file            *os.File // open for append after rewrite or a clean read
	size            int64    // whole records
	snapshot        int64    // size of the last snapshot
	stale           bool     // the memory is ahead of the file: only a snapshot helps
}

// findings are what reading a state file found beside its rows.
type findings struct {
	fresh bool    // there was none
	bad   []error // ErrBroken, each with file and offset
	aside string  // the copy of the bad file
}

func openDisk(dir string) (*disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		err = fmt.Errorf("state folder %s is used by another process: %w", dir, err)
		return nil, errors.Join(err, lock.Close())
	}
	return &disk{dir: dir, path: filepath.Join(dir, fileName), lock: lock}, nil
}

func (d *disk) close() error {
	if d == nil {
		return nil
	}
	var errs []error
	if d.file != nil {
		errs = append(errs, d.file.Sync(), d.file.Close())
		d.file = nil
	}
	return errors.Join(append(errs, d.lock.Close())...)
}

// read calls redo for the operations of each whole record. Where the file is broken it goes on at
// the next whole record and keeps a copy of the file aside.
func (d *disk) read(self string, redo func(ops []byte) error) (findings, error) {
	d.self = self
	data, err := os.ReadFile(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return findings{fresh: true}, nil
	}
	if err != nil {
		return findings{}, fmt.Errorf("state file: %w", err)
	}
	var found findings
	offset, err := d.readHeader(data)
	if errors.Is(err, ErrBroken) {
		found.bad = append(found.bad, err)
	} else if err != nil {
		return findings{}, err
	}
	for offset < len(data) {
		ops, why := readRecord(data[offset:])
		if why == nil {
			why = redo(ops)
		}
		if why == nil {
			offset += recordHeader + len(ops)
			continue
		}
		next := nextRecord(data, offset+1)
		found.bad = append(found.bad, fmt.Errorf("%s at offset %d: %d bytes can't be used: %w", d.path, offset, next-offset, why))
		offset = next
	}
	if len(found.bad) > 0 {
		found.aside = fmt.Sprintf("%s.broken-%d", d.path, time.Now().UnixNano())
		if err := writeFile(found.aside, data); err != nil {
			return findings{}, fmt.Errorf("keep broken state file aside: %w", err)
		}
		return found, nil
	}
	d.size, d.snapshot = int64(len(data)), int64(len(data))
	d.file, err = os.OpenFile(d.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return findings{}, fmt.Errorf("state file: %w", err)
	}
	return found, nil
}

// readHeader returns where the records begin.
func (d *disk) readHeader(data []byte) (int, error) {
	if len(data) < fileHeader || string(data[:len(fileMagic)]) != fileMagic {
		return nextRecord(data, 0), fmt.Errorf("%s at offset 0: it does not begin as a state file: %w", d.path, ErrBroken)
	}
	if version := data[len(fileMagic)]; version != fileVersion {
		return 0, fmt.Errorf("state file %s has version %d, this build reads %d: use the build that wrote it, or move it away",
			d.path, version, fileVersion)
	}
	n := int(binary.BigEndian.Uint16(data[fileHeader-2:]))
	if fileHeader+n > len(data) {
		return len(data), fmt.Errorf("%s at offset %d: it ends within its header: %w", d.path, len(data), ErrBroken)
	}
	if self := string(data[fileHeader : fileHeader+n]); self != d.self {
		return 0, fmt.Errorf("state file %s belongs to node %q, this is %q: use that node id or another folder", d.path, self, d.self)
	}
	return fileHeader + n, nil
}

// readRecord returns the operations of the record that data begins with.
func readRecord(data []byte) ([]byte, error) {
	if len(data) < recordHeader {
		return nil, fmt.Errorf("the last record is cut: %w", ErrBroken)
	}
	if binary.BigEndian.Uint32(data) != recordMagic {
		return nil, fmt.Errorf("no record begins here: %w", ErrBroken)
	}
	n := binary.BigEndian.Uint32(data[4:])
	if n > maxRecord || int(n) > len(data)-recordHeader {
		return nil, fmt.Errorf("a record of %d bytes goes beyond the end: %w", n, ErrBroken)
	}
	ops := data[recordHeader : recordHeader+int(n)]
	if recordSum(data[4:8], ops) != binary.BigEndian.Uint32(data[8:]) {
		return nil, fmt.Errorf("the checksum of a record is wrong: %w", ErrBroken)
	}
	return ops, nil
}

// nextRecord returns the offset of the first whole record at or after from, or the end.
func nextRecord(data []byte, from int) int {
	magic := binary.BigEndian.AppendUint32(nil, recordMagic)
	for from < len(data) {
		i := bytes.Index(data[from:], magic)
		if i < 0 {
			break
		}
		from += i
		if _, err := readRecord(data[from:]); err == nil {
			return from
		}
		from++
	}
	return len(data)
}

func recordSum(length, ops []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(length, table), table, ops)
}

func appendRecord(b, ops []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, recordMagic)
	length := binary.BigEndian.AppendUint32(nil, uint32(len(ops)))
	b = append(b, length...)
	b = binary.BigEndian.AppendUint32(b, recordSum(length, ops))
	return append(b, ops...)
}

// append writes one record; mem is the state that it leads to. After an error the file holds what
// it held before, as far as it is read again.
func (d *disk) append(ops []byte, sync bool, mem *memdb.Txn) error {
	switch {
	case d == nil:
		return nil
	case d.stale || d.file == nil || d.size > growth*d.snapshot+growthSlack:
		return d.rewrite(mem)
	}
	record := appendRecord(make([]byte, 0, recordHeader+len(ops)), ops)
	_, err := d.file.Write(record)
	if err == nil && sync {
		err = d.file.Sync()
	}
	if err != nil {
		// The record may be there in part or, after a failed sync, be lost later.
		d.stale = true
		return errors.Join(fmt.Errorf("write state file: %w", err), d.file.Truncate(d.size))
	}
	d.size += int64(len(record))
	return nil
}

// rewrite puts a snapshot of mem in the place of the file.
func (d *disk) rewrite(mem *memdb.Txn) error {
	d.stale = true
	temp := d.path + ".new"
	file, size, err := d.writeSnapshot(temp, mem)
	if err == nil {
		err = os.Rename(temp, d.path)
	}
	if err != nil {
		err = fmt.Errorf("write state file: %w", err)
		if file != nil {
			err = errors.Join(err, file.Close(), os.Remove(temp))
		}
		return err
	}
	if d.file != nil {
		_ = d.file.Close() // the old file, replaced
	}
	d.file, d.size, d.snapshot = file, size, size
	if err := d.syncDir(); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	d.stale = false
	return nil
}

// writeSnapshot writes mem to a new file and syncs it. The file may be open even after an error.
func (d *disk) writeSnapshot(path string, mem *memdb.Txn) (file *os.File, size int64, err error) {
	file, err = os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	write := func(b []byte) error {
		n, err := file.Write(b)
		size += int64(n)
		return err
	}
	head := append([]byte(fileMagic), fileVersion)
	head = binary.BigEndian.AppendUint16(head, uint16(len(d.self)))
	if err := write(append(head, d.self...)); err != nil {
		return file, size, err
	}
	err = snapshotOps(mem, snapshotPiece, func(ops []byte) error { return write(appendRecord(nil, ops)) })
	if err != nil {
		return file, size, err
	}
	return file, size, file.Sync()
}

func (d *disk) syncDir() error {
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func writeFile(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}
