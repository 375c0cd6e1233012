// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// Fields of the x86 boot header (Documentation/arch/x86/boot.rst, protocol 2.08): in 512-byte sectors,
// from the start of the protected-mode code, and in bytes.
const (
	offsetSetupSectors  = 0x1f1
	offsetMagic         = 0x202
	offsetPayloadStart  = 0x248
	offsetPayloadLength = 0x24c
	headerEnd           = 0x250
)

// unpackers by the first bytes of what they unpack.
var unpackers = []struct {
	magic   string
	command []string
}{
	{"\xfd7zXZ\x00", []string{"xz", "-dc", "--single-stream"}},
	{"\x28\xb5\x2f\xfd", []string{"zstd", "-dcq"}},
	{"\x02\x21\x4c\x18", []string{"lz4", "-dc"}},
	{"\x1f\x8b\x08", []string{"gzip", "-dcq"}},
}

// image returns the uncompressed kernel of dir, unpacking it the first time: the emulator would take
// a second or two to do it at each boot.
func image(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "vmlinux")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	packed, err := os.ReadFile(filepath.Join(dir, "vmlinuz"))
	if err != nil {
		return "", err
	}
	payload, err := payloadOf(packed)
	if err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	kernel, err := unpack(ctx, payload)
	if err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	if err := os.WriteFile(path+".new", kernel, 0o600); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}

// payloadOf cuts the compressed kernel out of a bzImage. Its last 4 bytes are the unpacked size.
func payloadOf(image []byte) ([]byte, error) {
	if len(image) < headerEnd || string(image[offsetMagic:offsetMagic+4]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	setup := (uint64(image[offsetSetupSectors]) + 1) * 512
	start := setup + uint64(binary.LittleEndian.Uint32(image[offsetPayloadStart:]))
	length := uint64(binary.LittleEndian.Uint32(image[offsetPayloadLength:]))
	if length < 4 || start+length > uint64(len(image)) {
		return nil, fmt.Errorf("payload of %d bytes at %d lies outside of the image's %d", length, start, len(image))
	}
	return image[start : start+length-4], nil
}

// unpack runs the tool that the first bytes tell; what is not packed is returned as it is.
func unpack(ctx context.Context, packed []byte) ([]byte, error) {
	if bytes.HasPrefix(packed, []byte("\x7fELF")) {
		return packed, nil
	}
	for _, u := range unpackers {
		if !bytes.HasPrefix(packed, []byte(u.magic)) {
			continue
		}
		cmd := exec.CommandContext(ctx, u.command[0], u.command[1:]...)
		cmd.Stdin = bytes.NewReader(packed)
		plain, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("unpack by %s: %w", u.command[0], err)
		}
		return plain, nil
	}
	return nil, fmt.Errorf("packed in an unknown way: it begins with % x", packed[:min(8, len(packed))])
}
