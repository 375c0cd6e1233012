// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// procSys shows the settings of the namespace of the thread that opens a file in it.
const procSys = "/proc/sys"

func writeSysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join(procSys, name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}

func readSysctl(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(procSys, name))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// settings changes sysctls and remembers on disk what they were, so that also a later process can put
// them back.
type settings struct {
	file string // empty: only this process can
	was  map[string]string
	log  *slog.Logger
}

func openSettings(dir string, log *slog.Logger) (*settings, error) {
	s := &settings{was: make(map[string]string), log: cmp.Or(log, slog.New(slog.DiscardHandler))}
	if dir == "" {
		return s, nil
	}
	s.file = filepath.Join(dir, "sysctl.json")
	b, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s.was)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s (what sysctls were before; without it they stay as they are): %w", s.file, err)
	}
	return s, nil
}

// set changes a sysctl; one that this kernel does not have is no error. A disk that keeps nothing is none either:
// tasks need the setting more than it needs to be put back.
func (s *settings) set(name, value string) error {
	old, err := readSysctl(name)
	if err != nil {
		return ignoreMissing(err)
	}
	if old == value {
		return nil
	}
	if _, known := s.was[name]; !known {
		s.was[name] = old
		if err := s.save(); err != nil {
			s.log.Warn("what a sysctl was is not kept: it would stay as it is", "sysctl", name, "error", err)
		}
	}
	return writeSysctl(name, value)
}

// restore puts a sysctl back and forgets what it was. An interface that is gone took its settings along.
func (s *settings) restore(name string) error {
	if err := ignoreMissing(writeSysctl(name, s.was[name])); err != nil {
		return err
	}
	delete(s.was, name)
	if len(s.was) == 0 && s.file != "" {
		return ignoreMissing(os.Remove(s.file))
	}
	return s.save()
}

func (s *settings) save() (err error) {
	if s.file == "" {
		return nil
	}
	b, err := json.Marshal(s.was)
	if err != nil {
		return fmt.Errorf("write %s: %w", s.file, err)
	}
	if err := os.MkdirAll(filepath.Dir(s.file), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", s.file, err)
	}
	f, err := os.Create(s.file + ".new")
	if err != nil {
		return fmt.Errorf("write %s: %w", s.file, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(s.file+".new", s.file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", s.file, err)
	}
	return nil
}
