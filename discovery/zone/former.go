// SPDX-License-Identifier: Apache-2.0

package zone

import "strings"

// formerly is what zones were called before; the first that fits counts. DC/OS answers to these names still.
var formerly = []struct{ was, is string }{
	{".dclb." + directory + ".", ".l4lb." + directory + "."},
	{".dclb.thisdcos.global.", ".l4lb." + directory + "."},
	{".thisdcos.global.", "." + directory + "."},
}

// Present returns what a name is called now, if it is a former name of one that is ours: by an earlier zone, or by the
// zone of this cluster's key (Options.Key), which has all that thisdcos.directory has.
func (z *Zone) Present(name string) (present string, former bool) {
	if z.options.MesosOnly {
		return name, false
	}
	if z.options.Key != "" {
		if rest, ok := strings.CutSuffix(name, "."+z.options.Key+".dcos.directory."); ok {
			return rest + "." + directory + ".", true
		}
	}
	for _, f := range formerly {
		if rest, ok := strings.CutSuffix(name, f.was); ok {
			return rest + f.is, true
		}
	}
	return name, false
}
