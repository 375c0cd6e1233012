// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"strings"

	"weft/bpf/row"
)

// Troubleshooting returns docs/troubleshooting.md: every reason of reason.h, and what is known of it.
func Troubleshooting() string {
	var b strings.Builder
	b.WriteString(pageHead)
	for reason := range row.ReasonMax {
		fault, known := faults[reason]
		if !known || reason.Text() == "" {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s: %s.\n\n", reason, class(reason), reason.Text())
		fmt.Fprintf(&b, "%s\n\n", fault.Means)
		fmt.Fprintf(&b, "- **Owner:** %s\n- **Decided by:** `%s`\n", ownerText[fault.Owner], fault.Step)
		if fault.Text != "" {
			fmt.Fprintf(&b, "- **Says:** %s\n", fault.Text)
		}
		fmt.Fprintf(&b, "- **To change it:** %s\n", fault.Check)
	}
	b.WriteString("\n## No faults\n\nReasons that are counted, and sampled in `weft flows`, without anything being wrong.\n\n| reason | means |\n|---|---|\n")
	for reason := range row.ReasonMax {
		if _, fault := faults[reason]; !fault && !reason.Drop() && reason.Text() != "" {
			fmt.Fprintf(&b, "| %s | %s |\n", reason, reason.Text())
		}
	}
	return b.String()
}

func class(r row.Reason) string {
	if r.Drop() {
		return "Dropped"
	}
	return "Passed"
}

var ownerText = map[Owner]string{
	OwnerTask: "the task that sent it", OwnerOperator: "the operator of the network",
	OwnerNode: "the node that dropped it", OwnerUnderlay: "who runs the machines' own network",
}

const pageHead = `# Troubleshooting, by reason

<!-- Written by make generate from bpf/src/shared/reason.h and overlay/explain/faults.go; do not edit. -->

Each packet leaves a program for one reason. The counters of a node have it (weft_packets_total), and so has each event
of ` + "`weft flows --drops`" + `, with the tasks, the rule that decided or the one that is missing, the owner (who can change
it) and what to do. ` + "`weft why SOURCE DESTINATION tcp/80`" + ` says the same before a packet is sent, and
` + "`weft trace SOURCE DESTINATION tcp/80`" + ` sends one and shows its walk over both nodes.

What passes is sampled: one of 1024 packets. ` + "`weft flows --task NAME --all`" + ` reports each packet of one task, up to
10,000. ` + "`weft flows -o json`" + ` prints a line for each event, and ` + "`weft flows --follow --ipfix HOST:PORT`" + ` sends them to a
flow collector (addresses, ports, bytes, packets, dropped or not; IPFIX has no element for names of tasks).

In braces stands what an event fills in.
`
