// SPDX-License-Identifier: Apache-2.0

// Package show is what all commands have in common: how they are called, and how they print what they read, as a table for
// people or as JSON for programs. It knows neither the nouns nor where they come from.
package show

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// ErrUsage marks an error in how a command was called: exit status 2.
var ErrUsage = errors.New("usage")

// Noun makes a command that only holds others.
func Noun(use, short, example string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, RunE: Choose}
	cmd.AddCommand(verbs...)
	return cmd
}

// Choose is RunE of a command that only holds others: without one it helps, with one that is not there it errs.
func Choose(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var names []string
	for _, verb := range cmd.Commands() {
		if verb.IsAvailableCommand() {
			names = append(names, verb.Name())
		}
	}
	return fmt.Errorf("%w: %s has no command %q: it has %s", ErrUsage, cmd.CommandPath(), args[0], strings.Join(names, ", "))
}

// Many is the upper bound of Args where there is none.
const Many = math.MaxInt

// Args wants between low and high arguments; the wrong number is an error of usage.
func Args(low, high int) cobra.PositionalArgs {
	wanted := strconv.Itoa(low)
	switch {
	case high == Many:
		wanted += " or more"
	case high > low:
		wanted += " to " + strconv.Itoa(high)
	}
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return fmt.Errorf("%w: %s: arguments given: %d, allowed: %s", ErrUsage, cmd.UseLine(), len(args), wanted)
		}
		return nil
	}
}

// FlagError is what a command that can't read its flags ends with. They may be those of a command that there is not, or of
// one of the user's, which stands behind --.
func FlagError(cmd *cobra.Command, err error) error {
	given := cmd.Flags().Args() // as far as they were read
	if wrong, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		allowed := wrong.Unwrap().Error()
		if known := allowedOf[wrong.GetFlag().Value.Type()]; known != "" {
			allowed = known + " allowed"
		}
		return fmt.Errorf("%w: --%s is %q: %s", ErrUsage, wrong.GetFlag().Name, wrong.GetValue(), allowed)
	}
	switch {
	case len(given) > 0 && cmd.HasSubCommands():
		return Choose(cmd, given)
	case len(given) > 0 && strings.Contains(cmd.Use, " -- "):
		return fmt.Errorf("%w: %w; a command with flags of its own stands behind --: %s", ErrUsage, err, cmd.UseLine())
	}
	return fmt.Errorf("%w: %w", ErrUsage, err)
}

// allowedOf says in words what flags of a type take.
var allowedOf = map[string]string{
	"uint16": "0 to 65535 are", "uint32": "0 to 4294967295 are", "int": "a whole number is", "bool": "true and false are",
	"duration": "a duration such as 500ms, 30s or 5m is",
}

// format is how a command prints what it read.
type format string

const (
	asTable format = "table"
	asJSON  format = "json"
)

// Set implements pflag.Value, as do String and Type.
func (f *format) Set(text string) error {
	if *f = format(text); *f != asTable && *f != asJSON {
		return fmt.Errorf("%s and %s are allowed", asTable, asJSON)
	}
	return nil
}
func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "string" }

// Output adds the -o flag to a command that reads and returns where its value will be: table or json.
func Output(cmd *cobra.Command) *string {
	f := asTable
	cmd.Flags().VarP(&f, "output", "o", "table or json")
	return (*string)(&f)
}

// Value prints v as JSON, or by table, as the -o flag says.
func Value(w io.Writer, output string, v any, table func(io.Writer)) error {
	if format(output) == asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	table(tw)
	return tw.Flush()
}

// Row prints one line of a table; an empty cell is a dash.
func Row(w io.Writer, cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = fmt.Sprint(c)
		if text[i] == "" || text[i] == "[]" || text[i] == "invalid IP" || text[i] == "invalid Prefix" {
			text[i] = "-"
		}
	}
	fmt.Fprintln(w, strings.Join(text, "\t"))
}

// List joins values with commas.
func List[T any](values []T) string {
	text := make([]string, len(values))
	for i, v := range values {
		text[i] = fmt.Sprint(v)
	}
	return strings.Join(text, ",")
}

// Age is how long ago t was, as people say it: 42s, 7m, 3h, 12d.
func Age(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return ""
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
