// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"go/ast"
	"testing"
)

// mostMethods is how wide the API of a node may be: all that its clients, the control plane among them, ask of it.
const mostMethods = 15

func TestTheAPIStaysNarrow(t *testing.T) {
	methods := make(map[string]int)
	sum := 0
	for _, f := range goFiles(t) {
		if f.test || f.dir != "overlay" && f.dir != "lb" && f.dir != "discovery" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || spec.Name.Name != "Service" {
				return true
			}
			if i, ok := spec.Type.(*ast.InterfaceType); ok {
				methods[f.dir] += i.Methods.NumFields()
				sum += i.Methods.NumFields()
			}
			return false
		})
	}
	if len(methods) != 3 || sum > mostMethods {
		t.Errorf("methods of Service by room: %v, %d in all; want three rooms and at most %d", methods, sum, mostMethods)
	}
}
