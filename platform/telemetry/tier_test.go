package telemetry

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestSealedBlocksAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		step := rapid.SampledFrom([]int64{5000, 60000}).Draw(t, "step")
		b := newOpen()
		for _, i := range []int{0, 1, 40, 63} {
			kind := rapid.SampledFrom([]string{"none", "same", "counts", "rates", "bits", "gaps"}).Draw(t, "kind")
			for j := range b[i] {
				switch kind {
				case "same":
					b[i][j] = 1.25
				case "counts":
					b[i][j] = float64(rapid.Int32().Draw(t, "count"))
				case "rates":
					b[i][j] = float64(rapid.IntRange(0, 1000).Draw(t, "events")) / (float64(step) / 1000)
				case "bits":
					b[i][j] = math.Float64frombits(rapid.Uint64().Draw(t, "bits"))
				case "gaps":
					if rapid.Bool().Draw(t, "there") {
						b[i][j] = float64(rapid.IntRange(-2, 1).Draw(t, "small"))
					}
				}
			}
		}
		b[0][0], b[0][1] = math.Copysign(0, -1), math.Inf(1)
		sealed := seal(b, step)
		back := newOpen()
		unseal(sealed, step, back)
		r := ring{}
		r.blocks[3] = block{no: 3, sealed: sealed}
		for i := range b {
			var scratch row
			one := r.read(tier{step}, 3, i, &scratch)
			for j, v := range b[i] {
				if !sameBits(back[i][j], v) || one != nil && !sameBits(one[j], v) || one == nil && v == v {
					t.Fatalf("series %d point %d: got %v, want %v (code %d)", i, j, back[i][j], v, sealed[i])
				}
			}
		}
	})
}

func sameBits(a, b float64) bool {
	return math.Float64bits(a) == math.Float64bits(b) || a != a && b != b
}

func TestUsualRowsAreSmall(t *testing.T) {
	b := newOpen()
	for i := range b {
		for j := range b[i] {
			b[i][j] = float64((i*j)%7) / 5 // a bucket that is hit now and then
		}
	}
	if got := float64(len(seal(b, 5000))) / (pageSize * blockPoints); got > 1.5 {
		t.Errorf("rates cost %.2f bytes a point, want at most 1.5", got)
	}
	large := newOpen()
	for i := range large {
		for j := range large[i] {
			large[i][j] = math.Sqrt(float64(i + j + 2)) // more than the first allocation holds
		}
	}
	back := newOpen()
	unseal(seal(large, 5000), 5000, back)
	if *back != *large {
		t.Error("a block of raw values comes back altered")
	}
	if got := seal(newOpen(), 5000); got != nil {
		t.Errorf("an empty block costs %d bytes, want none", len(got))
	}
}

func TestATimeOnTheBorderBelongsToTheBlockThatEndsThere(t *testing.T) {
	for _, c := range []struct {
		ms int64
		no int64
		at int
	}{{3_600_000, 0, 59}, {3_660_000, 1, 0}, {60_000, 0, 0}, {1, 0, 0}} {
		if no, at := historyTier.block(historyTier.ceil(c.ms)); no != c.no || at != c.at {
			t.Errorf("block of %d: got %d, %d; want %d, %d", c.ms, no, at, c.no, c.at)
		}
	}
}

func TestLiveAndHistoryAgreeForEachPublishersStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		start := time.Now()
		// "fast" reports every 5 s, "slow" every minute, "late" every 5 s but loses posts; all have 3 events a second.
		for i := range 60 {
			now := time.Now()
			mustPost(t, s, body("nf.node=fast", now, "name=fast -> 3", "name=level atlas.dstype=gauge -> "+fmt.Sprint(i)))
			if i%12 == 0 {
				mustPost(t, s, body("nf.node=slow", now, "name=slow -> 3"))
			}
			if i%7 != 3 {
				mustPost(t, s, body("nf.node=late", now, "name=late -> 3"))
			}
			time.Sleep(5 * time.Second)
		}
		params := fmt.Sprintf("&step=1m&s=%d&e=%d", start.Add(time.Minute).UnixMilli(), start.Add(4*time.Minute).UnixMilli())
		for name, want := range map[string]string{"fast": "3 3 3", "slow": "3 3 3", "level": "24 36 48"} {
			if got := values(t, s, "name,"+name+",:eq", params); got != "sum(name="+name+"): "+want {
				t.Errorf("minutes of %s: got %s, want %s", name, got, want)
			}
		}
		if got := values(t, s, "name,late,:eq", params); !strings.HasPrefix(got, "sum(name=late): 2.") {
			t.Errorf("minutes of a publisher that loses posts: got %s, want less than 3: nothing is filled in", got)
		}
		live := fmt.Sprintf("&step=5s&s=%d&e=%d", start.Add(time.Minute).UnixMilli(), start.Add(70*time.Second).UnixMilli())
		if got := values(t, s, "name,level,:eq", live); got != "sum(name=level): 13 14" {
			t.Errorf("live points: got %s", got)
		}
	})
}

func TestCorrectionsAndLatePointsLandInTheirStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		time.Sleep(58 * time.Second)
		start := time.Now().Truncate(time.Minute)
		mustPost(t, s, body("", start.Add(50*time.Second), "name=rate -> 1", "name=sums atlas.dstype=sum -> 1", "name=gauge atlas.dstype=gauge -> 5"))
		mustPost(t, s, body("", start.Add(48*time.Second), "name=rate -> 3", "name=sums atlas.dstype=sum -> 2", "name=gauge atlas.dstype=gauge -> 4"))
		time.Sleep(8 * time.Second)
		for q, want := range map[string]string{"rate": "3", "sums": "3", "gauge": "5"} {
			params := fmt.Sprintf("&step=5s&s=%d&e=%d", start.Add(45*time.Second).UnixMilli(), start.Add(50*time.Second).UnixMilli())
			if got := values(t, s, "name,"+q+",:eq", params); got != "sum(name="+q+"): "+want {
				t.Errorf("%s written twice in a step: got %s, want %s", q, got, want)
			}
		}
		params := fmt.Sprintf("&step=1m&s=%d&e=%d", start.UnixMilli(), start.Add(time.Minute).UnixMilli())
		if got := values(t, s, "name,rate,:eq", params); got != "sum(name=rate): 0.25" {
			t.Errorf("minute of a corrected rate: got %s, want 0.25 (15 events)", got)
		}
	})
}

func TestSeriesThatStandStillGoAfterSixHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{})
		ctx, stop := contextOf(t)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		for i := range 200 {
			mustPost(t, s, body("nf.node=gone", time.Now(), fmt.Sprintf("name=metric%d -> 1", i)))
		}
		mustPost(t, s, body("nf.node=stays", time.Now(), "name=metric0 -> 1"))
		for range 7*60 + 5 {
			time.Sleep(time.Minute)
			mustPost(t, s, body("nf.node=stays", time.Now(), "name=metric0 -> 1"))
		}
		if n := s.index.size(); n != 1 {
			t.Errorf("after 7 hours: got %d series, want 1", n)
		}
		if _, got := get(t, s, "/api/v1/tags/nf.node"); got != `["stays"]` {
			t.Errorf("nodes: got %s", got)
		}
		s.index.mu.RLock()
		pages, texts := 0, len(s.index.lookup)
		for _, p := range s.index.pages {
			if p != nil {
				pages++
			}
		}
		s.index.mu.RUnlock()
		if pages != 1 || texts != 4 {
			t.Errorf("after 7 hours: got %d pages and %d texts, want 1 and 4", pages, texts)
		}
		// What was sealed still answers, and the old one may come back.
		if got := values(t, s, "name,metric0,:eq", "&step=1h&s=e-6h&e=now"); !strings.HasSuffix(got, " 1") || strings.Count(got, "1") < 5 {
			t.Errorf("six hours: got %s", got)
		}
		mustPost(t, s, body("nf.node=gone", time.Now(), "name=metric7 -> 1"))
		if n := s.index.size(); n != 2 {
			t.Errorf("a series that comes back: got %d series, want 2", n)
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run after ctx ended: got %v, want nil", err)
		}
	})
}
