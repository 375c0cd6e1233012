// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/cmd/weft/node"
	"weft/cmd/weft/show"
	"weft/overlay/apply"
)

func uninstallCommand(env node.Env) *cobra.Command {
	o, force := Defaults(), false
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "remove what the node daemon left on this host, which must not run",
		Long: "Uninstall removes what a node daemon made and left at work: links, programs and their pins, devices, the\n" +
			"firewall table, addresses, and settings that are put back. It tells of each thing. The folder of --state stays:\n" +
			"remove it too where the node is never to come back, and forget the node with `weft node remove`.",
		Example: "  weft netd uninstall\n  weft netd uninstall --force",
		Args:    show.Args(0, 0),
	}
	f := cmd.Flags()
	o.placeFlags(f)
	f.BoolVar(&force, "force", false, "also while tasks are attached; they lose their networks")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.Complete(); err != nil {
			return fmt.Errorf("%w: %w", show.ErrUsage, err)
		}
		return uninstall(cmd.Context(), o, force, func(what string) { fmt.Fprintln(env.Stdout, "removed", what) })
	}
	return cmd
}

// uninstall removes all that run makes, in reverse order, and tells of each thing that was there. What can't be removed
// keeps nothing else from being removed.
func uninstall(ctx context.Context, o Options, force bool, tell func(what string)) (err error) {
	alone, err := claimNamespace(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, alone.Close()) }()
	tasks, err := apply.Links{}.List(ctx)
	if err != nil {
		return err
	}
	if len(tasks) > 0 && !force {
		var names []string
		for _, l := range tasks {
			names = append(names, l.Name)
		}
		return fmt.Errorf("tasks are attached by %s: end them first, or take their networks away with --force", strings.Join(names, ", "))
	}
	var errs []error
	for _, l := range tasks {
		err := apply.Links{}.Remove(ctx, l.Name)
		if errs = append(errs, err); err == nil {
			tell("link " + l.Name + " of a task")
		}
	}
	errs = append(errs, removePlane(o.Pin, tell))
	host, err := apply.NewHost(apply.HostOptions{Dir: o.State})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	removed, err := host.Remove(ctx)
	for _, what := range removed {
		tell(what)
	}
	errs = append(errs, err, removeFile(o.Socket, tell), removeFile(filepath.Join(o.State, pinnedMarker), tell))
	if o.sockets != "" { // the folder is the daemon's own
		if err := removeFile(o.Cgroup, tell); !errors.Is(err, unix.EBUSY) { // processes of tasks are in it
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removePlane removes the kernel half, of whatever build.
func removePlane(pin string, tell func(what string)) error {
	plane, err := bpf.Open(bpf.Options{Pin: pin, Classic: apply.Classic{}})
	if err != nil {
		return err
	}
	there := !plane.Fresh()
	if err := plane.Remove(); err != nil {
		return err
	}
	if there {
		tell("programs and maps pinned at " + pin)
	}
	return nil
}

// removeFile removes a file or an empty folder; one that is not there is no error.
func removeFile(path string, tell func(what string)) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		tell(path)
	}
	return err
}
