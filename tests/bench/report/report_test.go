// SPDX-License-Identifier: Apache-2.0

package report

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReplaceLinesKeepsOtherMeasures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.jsonl")
	lines := func(measure string, values ...float64) []Line {
		return []Line{NewLine(measure, "-", values, Bar{Most: 2})}
	}
	for _, l := range [][]Line{lines("a", 1), lines("b", 3), lines("a", 5)} {
		if err := ReplaceLines(path, l); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	want := `{"measure":"b","against":"-","value":3,"bar":2,"holds":false,"runs":1,"low":3,"high":3}
{"measure":"a","against":"-","value":5,"bar":2,"holds":false,"runs":1,"low":5,"high":5}
`
	if err != nil || string(got) != want {
		t.Errorf("%v, got\n%swant\n%s", err, got, want)
	}
}
