// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// pinsEvery is how often pins are looked after: until then a daemon that dies takes with it what lost its pin.
const pinsEvery = time.Second

// pinnedMarker is the file of the state folder that says in which boot the kernel half was pinned.
const pinnedMarker = "pinned"

// checkPins tells of a kernel half that should have outlived the daemon before and did not: its programs were
// gone, and with them every packet, until now. After a reboot it has to be gone.
func (d *daemon) checkPins(ctx context.Context) {
	marker := filepath.Join(d.o.State, pinnedMarker)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	last, lerr := os.ReadFile(marker)
	if errors.Is(lerr, fs.ErrNotExist) {
		lerr = nil
	}
	if d.plane.Fresh() && bytes.Equal(last, boot) {
		d.halfLost.Add(1)
		d.log.ErrorContext(ctx, "the kernel half was removed while the daemon was away: tasks were cut off until now, and what "+
			"programs remembered (flows, translations) is gone", "pin", d.o.Pin)
	}
	err = errors.Join(err, lerr)
	if err == nil && !bytes.Equal(last, boot) {
		err = os.WriteFile(marker, boot, 0o600)
	}
	if err != nil {
		d.log.WarnContext(ctx, "a loss of the kernel half would not be noticed", "error", err)
	}
}

// keepPins makes pins again that somebody removes.
func (d *daemon) keepPins(ctx context.Context) error {
	tick := time.NewTicker(pinsEvery)
	defer tick.Stop()
	said := "" // an error is told once
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		n, err := d.plane.Repair()
		d.pinsLost.Add(uint64(n))
		if n > 0 {
			d.log.ErrorContext(ctx, "pins were removed by somebody else: made again, no packet was lost", "pin", d.o.Pin, "pins", n)
		}
		if text := fmt.Sprint(err); err != nil && text != said {
			d.log.ErrorContext(ctx, "pins are gone, and tasks would go with the daemon", "pin", d.o.Pin, "error", err)
			said = text
		}
	}
}
