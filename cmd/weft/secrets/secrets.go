// SPDX-License-Identifier: Apache-2.0

// Package secrets is `weft secret`: it keeps the file of a cluster's secrets. The file is brought to the machines by
// whatever brings files there.
package secrets

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"weft/cmd/weft/process"
	"weft/cmd/weft/show"
)

// Command returns `weft secret`.
func Command(out io.Writer) *cobra.Command {
	group := show.Noun("secret", "the file of the cluster's secrets: the first is used, all are accepted",
		"  weft secret add /etc/weft/secret\n  weft secret use /etc/weft/secret\n  weft secret drop /etc/weft/secret")
	group.Long = "A cluster changes its secret in three steps. After each the file is brought to all machines, and masters and node daemons\n" +
		"are restarted, which costs nothing: add makes the new one accepted, use makes it the one that is shown, drop ends the old one."
	for _, step := range []struct {
		name, short string
		do          func(secrets [][]byte) ([][]byte, error) // nil: nothing is changed
	}{
		{"add", "add a new secret as the last one; makes the file if there is none", add},
		{"use", "make the last secret the first", use},
		{"drop", "keep the first secret alone", drop},
		{"show", "print how the secrets can be told apart, without telling them", nil},
	} {
		group.AddCommand(&cobra.Command{
			Use: step.name + " FILE", Short: step.short, Args: show.Args(1, 1), Example: "  weft secret " + step.name + " /etc/weft/secret",
			RunE: func(_ *cobra.Command, args []string) error { return change(out, args[0], step.name == "add", step.do) },
		})
	}
	return group
}

func add(secrets [][]byte) ([][]byte, error) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return append(secrets, []byte(base64.StdEncoding.EncodeToString(b[:]))), nil
}

func use(secrets [][]byte) ([][]byte, error) {
	if len(secrets) < 2 {
		return nil, errors.New("there is one secret, which is used already: add another first")
	}
	last := len(secrets) - 1
	return append([][]byte{secrets[last]}, secrets[:last]...), nil
}

func drop(secrets [][]byte) ([][]byte, error) { return secrets[:1], nil }

// change replaces the file by one with the secrets that do makes of it, if anything, and prints how those can be told apart.
func change(out io.Writer, path string, fresh bool, do func([][]byte) ([][]byte, error)) error {
	if path == "" {
		return fmt.Errorf("%w: FILE is empty: the path of a file is allowed, such as /etc/weft/secret", show.ErrUsage)
	}
	secrets, err := process.Secrets(path)
	if fresh && errors.Is(err, fs.ErrNotExist) {
		secrets, err = nil, nil
	}
	if err != nil {
		return err
	}
	if do != nil {
		if secrets, err = do(secrets); err != nil {
			return fmt.Errorf("secrets of %s: %w", path, err)
		}
		if err := write(path, secrets); err != nil {
			return fmt.Errorf("write secrets: %w", err)
		}
	}
	for i, s := range secrets {
		what := "accepted"
		if i == 0 {
			what = "used"
		}
		sum := sha256.Sum256(s)
		fmt.Fprintf(out, "%x  %s\n", sum[:4], what)
	}
	return nil
}

// write puts a whole new file in the place of the old one, for its owner alone.
func write(path string, secrets [][]byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(bytes.Join(secrets, []byte("\n")), '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
