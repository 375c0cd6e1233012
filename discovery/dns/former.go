// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"strings"

	wire "github.com/miekg/dns"
)

// formerly is what zones were called before; the first that fits counts. DC/OS answers to these names still.
var formerly = []struct{ was, is string }{
	{".dclb.thisdcos.directory.", ".l4lb.thisdcos.directory."},
	{".dclb.thisdcos.global.", ".l4lb.thisdcos.directory."},
	{".thisdcos.global.", ".thisdcos.directory."},
}

// rename makes a question by a former name one by the present one, whose answer is renamed back (Server.reply). Such answers
// are not made resident.
func (q *question) rename() {
	for _, f := range formerly {
		if rest, ok := strings.CutSuffix(q.name, f.was); ok {
			if _, own := q.zone.Apex(rest + f.is); own {
				q.name, q.renamed = rest+f.is, true
			}
			return
		}
	}
}

// asAsked is the name of a record's owner in the letters, and by the zone's name, that the asker used.
func (q *question) asAsked(owner string) string {
	asked := q.msg.Question[0].Name
	if !wire.IsSubDomain(owner, q.name) {
		return owner
	}
	labels, n := wire.Split(asked), wire.CountLabel(owner)
	if n == 0 || n > len(labels) {
		return owner
	}
	return asked[labels[len(labels)-n]:]
}
