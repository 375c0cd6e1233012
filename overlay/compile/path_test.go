// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"weft/overlay/compile"
)

func TestFindPathFindsTheLargestThatFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1400, 9500).Draw(t, "most")
		carries := rapid.OneOf(rapid.IntRange(compile.SmallestPath, 9500), rapid.SampledFrom([]int{1400, 1450, 1492, 1500, 8950})).Draw(t, "carries")
		asked := 0
		got, err := compile.FindPath(most, func(size int) (bool, error) {
			asked++
			if size > most {
				t.Fatalf("asked for %d of %d", size, most)
			}
			return size <= carries, nil
		})
		if want := min(most, carries); err != nil || got != want {
			t.Fatalf("got %d, %v; want %d", got, err, want)
		}
		if asked > 21 {
			t.Fatalf("%d questions", asked)
		}
	})
}

func TestFindPathKnowsNothingOfASilentNode(t *testing.T) {
	t.Parallel()
	asked := 0
	got, err := compile.FindPath(1500, func(int) (bool, error) { asked++; return false, nil })
	if got != 0 || err != nil || asked != 2 {
		t.Errorf("got %d, %v after %d questions; want 0 after 2", got, err, asked)
	}
	broken := errors.New("broken")
	if _, err := compile.FindPath(1500, func(int) (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
