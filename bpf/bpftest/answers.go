// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"errors"

	"github.com/cilium/ebpf"

	"weft/bpf/answers"
	"weft/bpf/row"
	"weft/bpf/table"
)

// Answers is the cache of names over an object's maps.
func Answers(maps map[string]*ebpf.Map) (*answers.Cache, error) {
	short, err1 := table.NewKernel[row.DNSKey, row.DNSAnswer](maps["dns_answers"], "dns_answers")
	long, err2 := table.NewKernel[row.DNSKey, row.DNSLong](maps["dns_long"], "dns_long")
	return answers.New(short, long), errors.Join(err1, err2)
}
