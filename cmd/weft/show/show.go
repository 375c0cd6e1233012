// SPDX-License-Identifier: Apache-2.0

// Package show prints what commands read: as a table for people or as JSON for programs. It knows
// neither the nouns nor where they come from.
package show

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// ErrUsage marks an error in how a command was called: exit status 2.
var ErrUsage = errors.New("usage")

// Output adds the -o flag to a command that reads and returns where its value will be.
func Output(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("output", "o", "table", "table or json")
}

// Value prints v as JSON, or by table, as the -o flag says.
func Value(w io.Writer, output string, v any, table func(io.Writer)) error {
	switch output {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "table":
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		table(tw)
		return tw.Flush()
	default:
		return fmt.Errorf("%w: output is %q: table or json are allowed", ErrUsage, output)
	}
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
