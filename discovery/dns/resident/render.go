// SPDX-License-Identifier: Apache-2.0

package resident

import (
	"errors"
	"fmt"

	wire "github.com/miekg/dns"

	"weft/discovery/dns/answer"
	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// Lesson is an answer in the form in which it is given and becomes resident.
type Lesson struct {
	Key
	zone     *zone.Zone // says so
	key      []byte     // in memory
	rendered *rendered
	depends  []string // other names with a part in the answer
	missing  bool     // NXDOMAIN, or a type that no zone has
}

// qname is the name in wire form.
func (p *Lesson) qname() []byte { return p.key[keyHead:] }

var (
	errForeign = errors.New("not a name of ours")
	errUnready = errors.New("not known yet")
	errLong    = errors.New("longer than an answer over UDP")
	errAlias   = errors.New("its records are turned behind a CNAME, or foreign")
	errAny     = errors.New("of whatever types there are")
)

// compose is Render of what a zone answers to a question in a network.
func (l *Answers) compose(k Key, z *zone.Zone, network string) (*Lesson, error) {
	apex, own := z.Apex(k.Name)
	if !own {
		return nil, errForeign
	}
	return l.Render(k, z, answer.Compose(z, network, apex, k.Name, k.Type))
}

// Render makes a lesson of what a zone answers to a question. It fails when that can't be resident: the server says it anew
// to everyone.
func (l *Answers) Render(k Key, z *zone.Zone, a answer.Answer) (*Lesson, error) {
	switch {
	case k.Type == wire.TypeANY:
		return nil, errAny
	case a.Rcode == wire.RcodeServerFailure:
		return nil, errUnready
	case a.Beyond != "" || len(a.Chain) > 0 && len(a.Records) > 1 && !l.fixed:
		return nil, errAlias
	}
	sections := [...][]wire.RR{append(a.Chain, a.Records...), a.Authority, a.Extra}
	p := &Lesson{
		Key: k, zone: z, depends: a.Depends, missing: a.Rcode == wire.RcodeNameError || !record.Type(k.Type).Held(),
		rendered: &rendered{rcode: uint8(a.Rcode)},
	}
	for i, section := range sections {
		p.rendered.counts[i] = uint16(len(section))
	}
	if err := p.pack(sections[:]); err != nil {
		if errors.Is(err, errLong) {
			l.long.leave(p.key)
		}
		return nil, fmt.Errorf("pack %s: %w", k.Name, err)
	}
	alike := len(a.Records) > 1 && len(a.Chain)+len(a.Authority)+len(a.Extra) == 0
	if alike && !l.fixed && (k.Type == wire.TypeA || k.Type == wire.TypeAAAA) {
		p.rendered.rotate = uint8(len(p.rendered.data) / len(a.Records)) // 16 or 28: the name is a pointer
	}
	return p, nil
}

// pack packs the records as they follow the question.
func (p *Lesson) pack(sections [][]wire.RR) error {
	size := 0
	for _, section := range sections {
		for _, rr := range section {
			size += wire.Len(rr)
		}
	}
	const label = 64 // the library wants room for one before it makes a pointer of it
	message := make([]byte, headSize+len(p.Name)+1+questionTail+min(size, maxUDP+label))
	names := map[string]int{} // that are pointed to
	end, err := wire.PackDomainName(p.Name, message, headSize, names, true)
	if err != nil {
		return err
	}
	p.key = appendMemoryKey(nil, p.VNI, p.Type, message[headSize:end])
	end += questionTail
	begin := end
	for _, section := range sections {
		for _, rr := range section {
			if end, err = wire.PackRR(rr, message, end, names, true); err != nil {
				return errors.Join(errLong, err)
			}
		}
	}
	if end-begin > maxUDP {
		return errLong
	}
	p.rendered.data = message[begin:end]
	return nil
}

func wireName(name string) ([]byte, error) {
	var buf [256]byte
	n, err := wire.PackDomainName(name, buf[:], 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", name, err)
	}
	return buf[:n], nil
}
