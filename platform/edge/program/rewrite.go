package program

import (
	"fmt"

	"go.starlark.net/syntax"
)

// rewriter puts guards around the operations of a script that may need them. It keeps all positions, so that errors name
// the line that was written.
type rewriter struct{ err error }

func (w *rewriter) refuse(p syntax.Position, format string, args ...any) {
	if w.err == nil {
		w.err = syntax.Error{Pos: p, Msg: fmt.Sprintf(format, args...)}
	}
}

func guard(name string, p syntax.Position, args ...syntax.Expr) syntax.Expr {
	return &syntax.CallExpr{Fn: &syntax.Ident{NamePos: p, Name: name}, Lparen: p, Args: args, Rparen: p}
}

func (w *rewriter) block(stmts []syntax.Stmt) {
	for _, s := range stmts {
		w.stmt(s)
	}
}

func (w *rewriter) stmt(s syntax.Stmt) {
	switch s := s.(type) {
	case *syntax.AssignStmt:
		w.assign(s)
	case *syntax.DefStmt:
		w.params(s.Params)
		w.block(s.Body)
	case *syntax.ExprStmt:
		s.X = w.expr(s.X)
	case *syntax.IfStmt:
		s.Cond = w.expr(s.Cond)
		w.block(s.True)
		w.block(s.False)
	case *syntax.ForStmt:
		w.target(s.Vars)
		s.X = w.expr(s.X)
		w.block(s.Body)
	case *syntax.WhileStmt:
		w.refuse(s.While, "while is not allowed; write for with a range")
	case *syntax.LoadStmt:
		w.refuse(s.Load, "load is not allowed; a program is one text")
	case *syntax.ReturnStmt:
		if s.Result != nil {
			s.Result = w.expr(s.Result)
		}
	}
}

// params takes no *args and **kwargs: calls would make tuples without a guard.
func (w *rewriter) params(params []syntax.Expr) {
	for _, p := range params {
		switch p := p.(type) {
		case *syntax.BinaryExpr:
			p.Y = w.expr(p.Y)
		case *syntax.UnaryExpr:
			w.refuse(p.OpPos, "*args and **kwargs are not allowed; name the parameters")
		}
	}
}

// growOps are the operations that may make more than they are given.
var growOps = map[syntax.Token]string{
	syntax.PLUS: guardPlus, syntax.STAR: guardTimes, syntax.PERCENT: guardMod, syntax.PIPE: guardOr, syntax.LTLT: guardShift,
	syntax.PLUS_EQ: guardAdd, syntax.STAR_EQ: guardTimes, syntax.PERCENT_EQ: guardMod, syntax.PIPE_EQ: guardMerge, syntax.LTLT_EQ: guardShift,
}

func (w *rewriter) assign(s *syntax.AssignStmt) {
	name := growOps[s.Op]
	if s.Op == syntax.EQ || name == "" || number(s.RHS) && s.Op != syntax.STAR_EQ && s.Op != syntax.LTLT_EQ {
		w.target(s.LHS)
		s.RHS = w.expr(s.RHS)
		return
	}
	again := w.copied(s.LHS)
	if again == nil {
		w.refuse(s.OpPos, "%s to what a call returns is not allowed; give it a name first", s.Op)
		return
	}
	w.target(s.LHS)
	s.RHS = guard(name, s.OpPos, w.expr(again), w.expr(s.RHS))
	s.Op = syntax.EQ
}

// copied returns an expression that reads what e names once more; nil if that could have an effect.
func (w *rewriter) copied(e syntax.Expr) syntax.Expr {
	switch e := e.(type) {
	case *syntax.Ident:
		return &syntax.Ident{NamePos: e.NamePos, Name: e.Name}
	case *syntax.Literal:
		c := *e
		return &c
	case *syntax.ParenExpr:
		return w.copied(e.X)
	case *syntax.DotExpr:
		if x := w.copied(e.X); x != nil {
			return &syntax.DotExpr{X: x, Dot: e.Dot, NamePos: e.NamePos, Name: &syntax.Ident{NamePos: e.Name.NamePos, Name: e.Name.Name}}
		}
	case *syntax.IndexExpr:
		if x, y := w.copied(e.X), w.copied(e.Y); x != nil && y != nil {
			return &syntax.IndexExpr{X: x, Lbrack: e.Lbrack, Y: y, Rbrack: e.Rbrack}
		}
	}
	return nil
}

// target is what is assigned to.
func (w *rewriter) target(e syntax.Expr) {
	switch e := e.(type) {
	case *syntax.ParenExpr:
		w.target(e.X)
	case *syntax.TupleExpr:
		for _, x := range e.List {
			w.target(x)
		}
	case *syntax.ListExpr:
		for _, x := range e.List {
			w.target(x)
		}
	case *syntax.IndexExpr:
		e.X, e.Y = w.expr(e.X), w.expr(e.Y)
	case *syntax.DotExpr:
		e.X = w.expr(e.X)
	}
}

func (w *rewriter) list(list []syntax.Expr) {
	for i := range list {
		list[i] = w.expr(list[i])
	}
}

// expr returns e with guards.
func (w *rewriter) expr(e syntax.Expr) syntax.Expr {
	switch e := e.(type) {
	case *syntax.ParenExpr:
		e.X = w.expr(e.X)
	case *syntax.CondExpr:
		e.Cond, e.True, e.False = w.expr(e.Cond), w.expr(e.True), w.expr(e.False)
	case *syntax.IndexExpr:
		e.X, e.Y = w.expr(e.X), w.expr(e.Y)
	case *syntax.SliceExpr:
		e.X = guard(guardPlain, e.Lbrack, w.expr(e.X))
		for _, p := range []*syntax.Expr{&e.Lo, &e.Hi, &e.Step} {
			if *p != nil {
				*p = w.expr(*p)
			}
		}
	case *syntax.DotExpr:
		e.X = w.expr(e.X)
		if growing[e.Name.Name] != nil {
			return guard(guardAttr, e.Dot, e.X, &syntax.Literal{Token: syntax.STRING, TokenPos: e.NamePos, Raw: e.Name.Name, Value: e.Name.Name})
		}
	case *syntax.CallExpr:
		e.Fn = w.expr(e.Fn)
		for i, a := range e.Args {
			switch a := a.(type) {
			case *syntax.BinaryExpr:
				if a.Op == syntax.EQ {
					a.Y = w.expr(a.Y)
					continue
				}
			case *syntax.UnaryExpr:
				if a.Op == syntax.STAR || a.Op == syntax.STARSTAR {
					a.X = guard(guardPlain, a.OpPos, w.expr(a.X))
					continue
				}
			}
			e.Args[i] = w.expr(a)
		}
	case *syntax.Comprehension:
		for _, c := range e.Clauses {
			switch c := c.(type) {
			case *syntax.ForClause:
				w.target(c.Vars)
				c.X = w.expr(c.X)
			case *syntax.IfClause:
				c.Cond = w.expr(c.Cond)
			}
		}
		e.Body = w.expr(e.Body)
	case *syntax.DictExpr:
		w.list(e.List)
	case *syntax.DictEntry:
		e.Key, e.Value = w.expr(e.Key), w.expr(e.Value)
	case *syntax.LambdaExpr:
		w.params(e.Params)
		e.Body = w.expr(e.Body)
	case *syntax.ListExpr:
		w.list(e.List)
	case *syntax.TupleExpr:
		w.list(e.List)
		return guard(guardPlain, syntax.Start(e), e)
	case *syntax.UnaryExpr:
		if e.X != nil {
			e.X = w.expr(e.X)
		}
	case *syntax.BinaryExpr:
		return w.binary(e)
	}
	return e
}

func (w *rewriter) binary(e *syntax.BinaryExpr) syntax.Expr {
	x, y := e.X, e.Y
	e.X, e.Y = w.expr(x), w.expr(y)
	switch e.Op {
	case syntax.EQL, syntax.NEQ, syntax.LT, syntax.GT, syntax.LE, syntax.GE, syntax.IN, syntax.NOT_IN:
		if !literal(x) && !(literal(y) && e.Op != syntax.IN && e.Op != syntax.NOT_IN) {
			e.X = guard(guardPlain, e.OpPos, e.X)
		}
		return e
	}
	if name := growOps[e.Op]; name != "" && (!number(x) && !number(y) || e.Op == syntax.STAR || e.Op == syntax.LTLT) {
		return guard(name, e.OpPos, e.X, e.Y)
	}
	return e
}

func literal(e syntax.Expr) bool {
	_, ok := e.(*syntax.Literal)
	return ok
}

// number reports whether e is a number that was written out. What is added to one is a number, too.
func number(e syntax.Expr) bool {
	l, ok := e.(*syntax.Literal)
	return ok && (l.Token == syntax.INT || l.Token == syntax.FLOAT)
}
