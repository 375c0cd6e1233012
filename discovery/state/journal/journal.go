// SPDX-License-Identifier: Apache-2.0

// Package journal keeps groups of operations in a file, so that after a crash all of a group is there or nothing.
// What operations say is its caller's to know.
package journal

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

// ErrBroken tells that bytes on disk were not what was written there.
var ErrBroken = errors.New("broken state file")

// Snapshot calls write with operations that make the whole state anew, in pieces of about size bytes.
type Snapshot func(size int, write func(ops []byte) error) error

// Journal is a folder with a state file. It is for one goroutine at a time. A nil Journal keeps nothing.
type Journal struct {
	dir, path, self string
	lock            *os.File
	file            *os.File // open for append after rewrite or a clean read
	copied          *os.File // the same records
	size            int64    // whole records
	snapshot        int64    // size of the last snapshot
	stale           bool     // the memory is ahead of the file: only a snapshot helps
}

// Findings are what reading a state file found beside its rows.
type Findings struct {
	Fresh bool    // there was none
	Bad   []error // ErrBroken, each with file and offset
	Aside string  // where the bad file was kept
	Whole bool    // the other file had everything, and was used in the place of the bad one
}

// Open makes the folder and takes it for this process alone. Its file says whose it is: Read refuses one of another self.
func Open(dir, self string) (*Journal, error) {
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
	return &Journal{dir: dir, self: self, path: filepath.Join(dir, fileName), lock: lock}, nil
}

// Close syncs and lets go of the folder.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	var errs []error
	for _, file := range []**os.File{&j.file, &j.copied} {
		if *file != nil {
			errs = append(errs, (*file).Sync(), (*file).Close())
			*file = nil
		}
	}
	return errors.Join(append(errs, j.lock.Close())...)
}

// Read calls redo for the operations of each whole record. Where the file is broken the other one is
// used if that is whole; else it goes on at the next whole record. A broken file is kept aside.
func (j *Journal) Read(redo func(ops []byte) error) (Findings, error) {
	data, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return Findings{Fresh: true}, nil
	}
	if err != nil {
		return Findings{}, fmt.Errorf("state file: %w", err)
	}
	found := Findings{}
	if found.Bad, err = j.scan(j.path, data, nil); err != nil {
		return Findings{}, err
	}
	use := data
	if len(found.Bad) > 0 {
		if other, ok := j.readCopy(); ok {
			use, found.Whole = other, true
		}
	}
	bad, err := j.scan(j.path, use, redo)
	if err != nil {
		return Findings{}, err
	}
	if len(found.Bad) == 0 {
		found.Bad = bad // records are whole, but say what can't be
	}
	if len(found.Bad) == 0 {
		j.size, j.snapshot = int64(len(data)), int64(len(data))
		return found, j.openFiles(data)
	}
	found.Aside = fmt.Sprintf("%s.broken-%d", j.path, time.Now().UnixNano())
	if err := writeFile(found.Aside, data); err != nil {
		return Findings{}, fmt.Errorf("keep broken state file aside: %w", err)
	}
	return found, nil
}

// readCopy returns the second file when nothing is wrong with it.
func (j *Journal) readCopy() ([]byte, bool) {
	path := filepath.Join(j.dir, copyName)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, false
	}
	bad, err := j.scan(path, data, nil)
	return data, err == nil && len(bad) == 0
}

// openFiles opens both files for append, the second being made equal if it is not.
func (j *Journal) openFiles(data []byte) (err error) {
	path := filepath.Join(j.dir, copyName)
	if other, err := os.ReadFile(path); err != nil || !bytes.Equal(other, data) {
		if err := replaceFile(path, data); err != nil {
			return fmt.Errorf("copy of the state file: %w", err)
		}
	}
	if j.file, err = os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return fmt.Errorf("state file: %w", err)
	}
	if j.copied, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return fmt.Errorf("copy of the state file: %w", err)
	}
	return nil
}

// scan walks over the records of a file's bytes and returns what is broken of it, with offsets. It
// calls redo, if there is one, for each whole record.
func (j *Journal) scan(path string, data []byte, redo func(ops []byte) error) (bad []error, err error) {
	offset, err := j.readHeader(data)
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
func (j *Journal) readHeader(data []byte) (int, error) {
	if len(data) < fileHeader || string(data[:len(fileMagic)]) != fileMagic {
		return nextRecord(data, 0), fmt.Errorf("%s at offset 0: it does not begin as a state file: %w", j.path, ErrBroken)
	}
	if version := data[len(fileMagic)]; version == 0 || version > fileVersion {
		return 0, fmt.Errorf("state file %s has version %d, this build reads %d: use the build that wrote it, or move it away",
			j.path, version, fileVersion)
	}
	n := int(binary.BigEndian.Uint16(data[fileHeader-2:]))
	if fileHeader+n > len(data) {
		return len(data), fmt.Errorf("%s at offset %d: it ends within its header: %w", j.path, len(data), ErrBroken)
	}
	if self := string(data[fileHeader : fileHeader+n]); self != j.self {
		return 0, fmt.Errorf("state file %s belongs to node %q, this is %q: use that node id or another folder", j.path, self, j.self)
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

// Append writes one record, synced if asked for; whole is the state that it leads to. After an error the file holds what
// it held before, as far as it is read again.
func (j *Journal) Append(ops []byte, sync bool, whole Snapshot) error {
	switch {
	case j == nil:
		return nil
	case j.stale || j.file == nil || j.size > growth*j.snapshot+growthSlack:
		return j.Rewrite(whole)
	}
	record := appendRecord(make([]byte, 0, recordHeader+len(ops)), ops)
	for _, file := range []*os.File{j.file, j.copied} {
		_, err := file.Write(record)
		if err == nil && sync {
			err = file.Sync()
		}
		if err != nil {
			// The record may be there in part or, after a failed sync, be lost later.
			j.stale = true
			return errors.Join(fmt.Errorf("write state file: %w", err), j.file.Truncate(j.size), j.copied.Truncate(j.size))
		}
	}
	j.size += int64(len(record))
	return nil
}

// Rewrite puts a snapshot in the place of both files, one after the other: one of them is
// whole at any time.
func (j *Journal) Rewrite(whole Snapshot) error {
	j.stale = true
	for _, f := range []struct {
		path string
		file **os.File
	}{{j.path, &j.file}, {filepath.Join(j.dir, copyName), &j.copied}} {
		file, size, err := j.replace(f.path, whole)
		if err != nil {
			return fmt.Errorf("write state file: %w", err)
		}
		if *f.file != nil {
			_ = (*f.file).Close() // the old file, replaced
		}
		*f.file, j.size, j.snapshot = file, size, size
	}
	if err := j.syncDir(); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	j.stale = false
	return nil
}

// replace puts a snapshot in the place of one file.
func (j *Journal) replace(path string, whole Snapshot) (*os.File, int64, error) {
	temp := path + ".new"
	file, size, err := j.writeSnapshot(temp, whole)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil && file != nil {
		err = errors.Join(err, file.Close(), os.Remove(temp))
	}
	return file, size, err
}

// writeSnapshot writes the state to a new file and syncs it. The file may be open even after an error.
func (j *Journal) writeSnapshot(path string, whole Snapshot) (file *os.File, size int64, err error) {
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
	head = binary.BigEndian.AppendUint16(head, uint16(len(j.self)))
	if err := write(append(head, j.self...)); err != nil {
		return file, size, err
	}
	err = whole(snapshotPiece, func(ops []byte) error { return write(appendRecord(nil, ops)) })
	if err != nil {
		return file, size, err
	}
	return file, size, file.Sync()
}

// Size is that of the state file, in bytes.
func (j *Journal) Size() int64 {
	if j == nil {
		return 0
	}
	return j.size
}

func (j *Journal) syncDir() error {
	dir, err := os.Open(j.dir)
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
