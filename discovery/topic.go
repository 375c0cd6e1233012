// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"cmp"
	"strings"
)

// Topic is what rows are held on interest of. The zero value is that of the rows which everyone holds; those of
// another topic are held by their writer and by who takes the topic, which masters do for every one.
type Topic struct {
	Kind Kind
	// Of is the part of the kind: of names what their labels begin with. Empty: the kind is one topic.
	Of string
}

// Every is the Of of an interest in all topics of a kind.
const Every = "*"

// Topic returns the topic of the row that has this key. A name's is in its key; one without (of an earlier
// version) goes to everyone.
func (k Kind) Topic(key string) Topic {
	if k == KindEndpoint {
		return Topic{Kind: k}
	}
	if of, _, ok := strings.Cut(key, "/"); ok && k == KindName {
		return Topic{Kind: k, Of: of}
	}
	return Topic{}
}

// nameTopic is how much of a label a topic of names has: no rule of the zones cuts a label shorter.
const nameTopic = 24

// NameTopic returns the topic of names whose label (lower case) is this one.
func NameTopic(label string) Topic {
	return Topic{Kind: KindName, Of: label[:min(len(label), nameTopic)]}
}

// RowKey is the key of the row of a name.
func (n Name) RowKey() string { return NameTopic(strings.ToLower(n.Label)).Of + "/" + n.Task }

// IsZero tells that everyone holds the topic's rows.
func (t Topic) IsZero() bool { return t == Topic{} }

// Compare orders topics by kind and part, the zero one first.
func (t Topic) Compare(o Topic) int {
	if c := cmp.Compare(t.Kind, o.Kind); c != 0 {
		return c
	}
	return cmp.Compare(t.Of, o.Of)
}

// String is the form of wire and disk: kind, kind/part, or nothing.
func (t Topic) String() string {
	if t.Of == "" {
		return string(t.Kind)
	}
	return string(t.Kind) + "/" + t.Of
}

// ParseTopic reads what String wrote; any text is one.
func ParseTopic(text string) Topic {
	kind, of, _ := strings.Cut(text, "/")
	return Topic{Kind: Kind(kind), Of: of}
}

// TaskOfRow returns the task of the row of names with that key.
func TaskOfRow(key string) string {
	_, task, _ := strings.Cut(key, "/")
	return task
}
