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

	"golang.org/x/sys/unix"
)

// The state file is a header and records:
//
//	header  "WEFTROWS" version(1) length(2) self
//	record  magic(4) length(4) crc32c(4) operations
//
// Numbers are big endian; the sum covers length and operations. A record is one group of changes:
// after a crash all of it is there or nothing. A snapshot is the same, with the operations that make
// everything anew; it takes the file's place by rename. All is written twice, to two files: own rows
// are nowhere else, and the tasks that they are about go on when a file is damaged.
const (
	fileName      = "rows.log"
	copyName      = "rows.copy"
	fileMagic     = "WEFTROWS"
	fileVersion   = 2 // 1 had no topics: own rows begin a new life, others come again
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
	copied          *os.File // the same records
	size            int64    // whole records
	snapshot        int64    // size of the last snapshot
	stale           bool     // the memory is ahead of the file: only a snapshot helps
}

// findings are what reading a state file found beside its rows.
type findings struct {
	fresh bool    // there was none
	bad   []error // ErrBroken, each with file and offset
	aside string  // where the bad file was kept
	whole bool    // the other file had everything, and was used in the place of the bad one
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
	for _, file := range []**os.File{&d.file, &d.copied} {
		if *file != nil {
			errs = append(errs, (*file).Sync(), (*file).Close())
			*file = nil
		}
	}
	return errors.Join(append(errs, d.lock.Close())...)
}

// read calls redo for the operations of each whole record. Where the file is broken the other one is
// used if that is whole; else it goes on at the next whole record. A broken file is kept aside.
func (d *disk) read(self string, redo func(ops []byte) error) (findings, error) {
	d.self = self
	data, err := os.ReadFile(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return findings{fresh: true}, nil
	}
	if err != nil {
		return findings{}, fmt.Errorf("state file: %w", err)
	}
	found := findings{}
	if found.bad, err = d.scan(d.path, data, nil); err != nil {
		return findings{}, err
	}
	use := data
	if len(found.bad) > 0 {
		if other, ok := d.readCopy(); ok {
			use, found.whole = other, true
		}
	}
	bad, err := d.scan(d.path, use, redo)
	if err != nil {
		return findings{}, err
	}
	if len(found.bad) == 0 {
		found.bad = bad // records are whole, but say what can't be
	}
	if len(found.bad) == 0 {
		d.size, d.snapshot = int64(len(data)), int64(len(data))
		return found, d.openFiles(data)
	}
	found.aside = fmt.Sprintf("%s.broken-%d", d.path, time.Now().UnixNano())
	if err := writeFile(found.aside, data); err != nil {
		return findings{}, fmt.Errorf("keep broken state file aside: %w", err)
	}
	return found, nil
}

// readCopy returns the second file when nothing is wrong with it.
func (d *disk) readCopy() ([]byte, bool) {
	path := filepath.Join(d.dir, copyName)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	bad, err := d.scan(path, data, nil)
	return data, err == nil && len(bad) == 0
}

// openFiles opens both files for append, the second being made equal if it is not.
func (d *disk) openFiles(data []byte) (err error) {
	path := filepath.Join(d.dir, copyName)
	if other, err := os.ReadFile(path); err != nil || !bytes.Equal(other, data) {
		if err := replaceFile(path, data); err != nil {
			return fmt.Errorf("copy of the state file: %w", err)
		}
	}
	if d.file, err = os.OpenFile(d.path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	if d.copied, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return fmt.Errorf("copy of the state file: %w", err)
	}
	return nil
}

// scan walks over the records of a file's bytes and returns what is broken of it, with offsets. It
// calls redo, if there is one, for each whole record.
func (d *disk) scan(path string, data []byte, redo func(ops []byte) error) (bad []error, err error) {
	offset, err := d.readHeader(data)
	if errors.Is(err, ErrBroken) {
		bad = append(bad, err)
	} else if err != nil {
		return nil, err
	}
	for offset < len(data) {
		ops, why := readRecord(data[offset:])
		if why == nil && redo != nil {
			why = redo(ops)
		}
		if why == nil {
			offset += recordHeader + len(ops)
			continue
		}
		next := nextRecord(data, offset+1)
		bad = append(bad, fmt.Errorf("%s at offset %d: %d bytes can't be used: %w", path, offset, next-offset, why))
		offset = next
	}
	return bad, nil
}

// readHeader returns where the records begin.
func (d *disk) readHeader(data []byte) (int, error) {
	if len(data) < fileHeader || string(data[:len(fileMagic)]) != fileMagic {
		return nextRecord(data, 0), fmt.Errorf("%s at offset 0: it does not begin as a state file: %w", d.path, ErrBroken)
	}
	if version := data[len(fileMagic)]; version == 0 || version > fileVersion {
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
func (d *disk) append(ops []byte, sync bool, mem *memory) error {
	switch {
	case d == nil:
		return nil
	case d.stale || d.file == nil || d.size > growth*d.snapshot+growthSlack:
		return d.rewrite(mem)
	}
	record := appendRecord(make([]byte, 0, recordHeader+len(ops)), ops)
	for _, file := range []*os.File{d.file, d.copied} {
		_, err := file.Write(record)
		if err == nil && sync {
			err = file.Sync()
		}
		if err != nil {
			// The record may be there in part or, after a failed sync, be lost later.
			d.stale = true
			return errors.Join(fmt.Errorf("write state file: %w", err), d.file.Truncate(d.size), d.copied.Truncate(d.size))
		}
	}
	d.size += int64(len(record))
	return nil
}

// rewrite puts a snapshot of mem in the place of both files, one after the other: one of them is
// whole at any time.
func (d *disk) rewrite(mem *memory) error {
	d.stale = true
	for _, f := range []struct {
		path string
		file **os.File
	}{{d.path, &d.file}, {filepath.Join(d.dir, copyName), &d.copied}} {
		file, size, err := d.replace(f.path, mem)
		if err != nil {
			return fmt.Errorf("write state file: %w", err)
		}
		if *f.file != nil {
			_ = (*f.file).Close() // the old file, replaced
		}
		*f.file, d.size, d.snapshot = file, size, size
	}
	if err := d.syncDir(); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	d.stale = false
	return nil
}

// replace puts a snapshot of mem in the place of one file.
func (d *disk) replace(path string, mem *memory) (*os.File, int64, error) {
	temp := path + ".new"
	file, size, err := d.writeSnapshot(temp, mem)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil && file != nil {
		err = errors.Join(err, file.Close(), os.Remove(temp))
	}
	return file, size, err
}

// writeSnapshot writes mem to a new file and syncs it. The file may be open even after an error.
func (d *disk) writeSnapshot(path string, mem *memory) (file *os.File, size int64, err error) {
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

// replaceFile makes path hold data, whole or as it was before.
func replaceFile(path string, data []byte) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeFile(temp, data); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
