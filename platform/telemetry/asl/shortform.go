package asl

import (
	"fmt"
)

// rewrites are the words that stand for longer programs. They are shown as they were written.
func rewrites(add adder) {
	ofQuery := func(name string, means func(q *Query) *Expr) {
		expand := func(shown fmt.Stringer) *Expr { return means(shown.(*Query)) }
		add(name, "Query -- TimeSeriesExpr", func(m *machine) (bool, error) {
			q, ok := m.popQuery()
			if ok {
				m.push(newRewrite(name, q, expand))
			}
			return ok, nil
		})
		// An expression that only says which data, and by which keys, will do too.
		add(name, "DataExpr -- TimeSeriesExpr", func(m *machine) (bool, error) {
			l, ok := m.popLine()
			if !ok || l.Expr.kind != dataExpr || l.Expr.data.Aggr == All || l.Expr.data.Offset != 0 {
				return false, nil
			}
			short := newRewrite(name, l.Expr.data.Query, expand)
			if by := l.Expr.data.By; len(by) > 0 {
				grouped, err := short.then(step{by: by})
				if err != nil {
					return false, err
				}
				short = grouped
			}
			m.pushLike(l.Style, short)
			return true, nil
		})
	}
	ofExpr := func(name string, means func(e *Expr) *Expr) {
		add(name, "TimeSeriesExpr -- TimeSeriesExpr", onLine(func(e *Expr) (*Expr, error) {
			return newRewrite(name, e, func(shown fmt.Stringer) *Expr { return means(shown.(*Expr)) }), nil
		}))
	}
	add(":avg", "Query -- TimeSeriesExpr", func(m *machine) (bool, error) {
		q, ok := m.popQuery()
		if ok {
			m.push(newRewrite(":avg", q, func(shown fmt.Stringer) *Expr {
				return newBinary(":div", aggregate(shown.(*Query), Sum), aggregate(shown.(*Query), Count))
			}))
		}
		return ok, nil
	})
	ofExpr(":avg", func(e *Expr) *Expr { return newBinary(":div", newAggr(Sum, e), newAggr(Count, e)) })
	ofExpr(":pct", func(e *Expr) *Expr {
		return newBinary(":mul", newBinary(":div", e, newAggr(Sum, e)), newConst(100))
	})
	ofExpr(":stddev", func(e *Expr) *Expr {
		return deviation(newAggr(Count, e), newAggr(Sum, e), newAggr(Sum, newBinary(":mul", e, e)))
	})

	only := func(q *Query, values ...string) *Expr { return aggregate(newAnd(newIn("statistic", values), q), Sum) }
	ofQuery(":dist-avg", func(q *Query) *Expr {
		return newBinary(":div", only(q, "totalTime", "totalAmount"), only(q, "count"))
	})
	ofQuery(":dist-max", func(q *Query) *Expr {
		return aggregate(newAnd(&Query{Op: Eq, Key: "statistic", Value: "max"}, q), Max)
	})
	ofQuery(":dist-stddev", func(q *Query) *Expr {
		return deviation(only(q, "count"), only(q, "totalTime", "totalAmount"), only(q, "totalOfSquares"))
	})
	percent := func(m *machine, ps []float64) (bool, error) {
		v, ok := m.pop()
		if _, isText := v.(string); !ok || isText {
			return false, nil
		}
		l, ok := toLine(v)
		if !ok || l.Style != nil || l.Expr.kind != dataExpr || l.Expr.data.Aggr == All {
			return false, nil
		}
		e, err := newPercentiles(l.Expr.data, ps)
		if err != nil {
			return false, err
		}
		m.push(e)
		return true, nil
	}
	add(":percentiles", "Query percentiles:List -- TimeSeriesExpr", func(m *machine) (bool, error) {
		texts, ok := m.popStrings()
		if !ok || len(texts) == 0 {
			return false, nil
		}
		ps := make([]float64, len(texts))
		for i, s := range texts {
			if ps[i], ok = parseNumber(s); !ok {
				return false, nil
			}
		}
		return percent(m, ps)
	})
	add(":median", "Query -- TimeSeriesExpr", func(m *machine) (bool, error) { return percent(m, []float64{50}) })
}

// deviation is the standard deviation of n values with that sum and sum of squares: sqrt(n*squares - sum^2)/n.
func deviation(n, sum, squares *Expr) *Expr {
	return newBinary(":div", newUnary(":sqrt",
		newBinary(":sub", newBinary(":mul", n, squares), newBinary(":mul", sum, sum))), n)
}

func newPercentiles(d *Data, ps []float64) (*Expr, error) {
	for _, p := range ps {
		if !(p >= 0 && p <= 100) {
			return nil, fmt.Errorf("requirement failed: percentiles must be in the range [0.0, 100.0], got %s", formatNumber(p))
		}
	}
	by := append([]string{percentileKey}, without(d.By, percentileKey)...)
	data := newData(d.with(func(d *Data) { d.By, d.Aggr = by, Sum }))
	return newExpr(Expr{kind: percentExpr, word: ":percentiles", args: []*Expr{data}, nums: ps, params: formatAll(ps)}), nil
}
