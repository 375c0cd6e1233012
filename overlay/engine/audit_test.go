// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"weft/discovery"
	"weft/overlay"
)

// What somebody else wrote into the tables is mended by the audit, and told; what masters and tasks change is neither.
func TestTablesThatSomebodyElseWroteAreMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.attach(t, task("web-1", "prod", "web"))
		time.Sleep(auditEvery / 2)
		n.masters.say(discovery.KindRule, "99", overlay.Rule{ID: 99, Network: "prod", From: "web", To: "db", Action: overlay.Allow})
		time.Sleep(auditEvery)
		synctest.Wait()
		if got := n.Stats().Mended; got != 0 {
			t.Errorf("%d audits found something, though nobody else wrote", got)
		}
		endpoints, err := n.kernel.tables.endpoints.All()
		if err != nil || len(endpoints) == 0 {
			t.Fatal(endpoints, err)
		}
		for key := range endpoints {
			if err := n.kernel.tables.endpoints.Delete(key); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * auditEvery)
		synctest.Wait()
		n.check(t, "web-1")
		if got := n.Stats().Mended; got != 1 {
			t.Errorf("%d audits found something, want the one", got)
		}
	})
}
