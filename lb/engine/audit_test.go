// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"weft/bpf/row"
	"weft/lb"
)

// What somebody else wrote into the tables is mended by the audit, half a minute later at most.
func TestTablesThatSomebodyElseWroteAreMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := open(t)
		n.run(n.lead)
		n.run(n.Run)
		n.publish(web("web.1", "9.0.0.5"))
		key := row.VIPKey{VNI: 7, Addr: row.AddrOf(lb.HashAddr4("web.weft")), Port: row.Port(80), Proto: 6}
		if err := n.vips.Delete(key); err != nil {
			t.Fatal(err)
		}
		if err := n.backends.Put(row.BackendKey{VIP: 99}, row.Backend{ID: 99}); err != nil {
			t.Fatal(err)
		}
		// Rows change meanwhile, as they do where there is much to do.
		for i := range 31 {
			other := web("other.1", fmt.Sprintf("9.0.1.%d", i))
			other.Labels = []string{"/other:80=8080/tcp"}
			n.publish(other)
			time.Sleep(time.Second) // the bubble's time
		}
		synctest.Wait()
		if got := n.slots(); got != 1 {
			t.Errorf("%d backends, want the VIP back with 1", got)
		}
		if _, ok, err := n.backends.Get(row.BackendKey{VIP: 99}); ok || err != nil {
			t.Errorf("the strange backend: there %t %v, want it removed", ok, err)
		}
		if got := n.Snapshot().Stats.Mended; got != 1 {
			t.Errorf("%d audits found something, want the one", got)
		}
	})
}
