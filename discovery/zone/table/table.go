// SPDX-License-Identifier: Apache-2.0

// Package table is an immutable map of texts that is changed by copying little of it.
package table

import (
	"slices"
	"strings"
)

// Table is an immutable map of texts: a Txn makes the next one, copying only the pages and buckets that
// it changes.
//
//	pages       of 32 buckets each, their number a power of two
//	  buckets   by the hash of a text
//	    slots   ordered by text, 64 at most on average: a bucket is small to copy and quick to search, and
//	            nothing is kept besides texts and values (a radix tree takes four times the memory)
type Table[V any] struct {
	pages []*page[V]
	slots int
}

const (
	pageSize       = 32
	slotsPerBucket = 64
)

type page[V any] [pageSize][]slot[V]

type slot[V any] struct {
	text  string
	value V
}

// bucketOf is where a text is among all buckets, by FNV-1a.
func bucketOf(text string, pages int) int {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	h ^= h >> 32
	return int(h & uint64(pages*pageSize-1))
}

func find[V any](bucket []slot[V], text string) (int, bool) {
	return slices.BinarySearchFunc(bucket, text, func(s slot[V], text string) int { return strings.Compare(s.text, text) })
}

// At returns what a text leads to, nil if it is not there. It must not be changed.
func (t *Table[V]) At(text string) *V {
	if len(t.pages) == 0 {
		return nil
	}
	b := bucketOf(text, len(t.pages))
	bucket := t.pages[b/pageSize][b%pageSize]
	if i, ok := find(bucket, text); ok {
		return &bucket[i].value
	}
	return nil
}

// Each calls yield for all, in no order that means anything.
func (t *Table[V]) Each(yield func(string, *V) bool) {
	for _, p := range t.pages {
		for _, bucket := range p {
			for i := range bucket {
				if !yield(bucket[i].text, &bucket[i].value) {
					return
				}
			}
		}
	}
}

// Txn is a table that is being made.
type Txn[V any] struct {
	Table[V]
	ownPages map[int]bool // that are this Txn's alone, as are
	own      map[int]bool // these buckets
}

// Txn begins a table that differs from t, which stays as it is.
func (t *Table[V]) Txn() *Txn[V] {
	x := &Txn[V]{Table: *t, ownPages: map[int]bool{}, own: map[int]bool{}}
	x.pages = slices.Clone(t.pages)
	if len(x.pages) == 0 {
		x.pages = []*page[V]{{}}
	}
	return x
}

// bucket returns one that can be changed.
func (x *Txn[V]) bucket(b int) *[]slot[V] {
	n := b / pageSize
	if !x.ownPages[n] {
		c := *x.pages[n]
		x.pages[n], x.ownPages[n] = &c, true
	}
	bucket := &x.pages[n][b%pageSize]
	if !x.own[b] {
		*bucket, x.own[b] = slices.Clone(*bucket), true
	}
	return bucket
}

// Set returns the value of a text, to be changed before the next call; it is made if need be.
func (x *Txn[V]) Set(text string) *V {
	if x.slots >= slotsPerBucket*pageSize*len(x.pages) {
		x.grow()
	}
	bucket := x.bucket(bucketOf(text, len(x.pages)))
	i, ok := find(*bucket, text)
	if !ok {
		*bucket = slices.Insert(*bucket, i, slot[V]{text: text})
		x.slots++
	}
	return &(*bucket)[i].value
}

// Remove forgets a text.
func (x *Txn[V]) Remove(text string) {
	bucket := x.bucket(bucketOf(text, len(x.pages)))
	if i, ok := find(*bucket, text); ok {
		*bucket = slices.Delete(*bucket, i, i+1)
		x.slots--
	}
}

// grow doubles the pages.
func (x *Txn[V]) grow() {
	old := x.pages
	x.pages = make([]*page[V], 2*len(old))
	for i := range x.pages {
		x.pages[i], x.ownPages[i] = &page[V]{}, true
	}
	for b := range pageSize * len(x.pages) {
		x.own[b] = true
	}
	for _, p := range old {
		for _, bucket := range p {
			for _, s := range bucket { // in order, so each new bucket is
				to := x.bucket(bucketOf(s.text, len(x.pages)))
				*to = append(*to, s)
			}
		}
	}
}

// Commit ends the Txn. Buckets that grew have room to spare, which nobody would use.
func (x *Txn[V]) Commit() Table[V] {
	for b := range x.own {
		bucket := x.bucket(b)
		if cap(*bucket)-len(*bucket) > len(*bucket)/8 {
			*bucket = slices.Clip(slices.Clone(*bucket))
		}
	}
	return x.Table
}
