package roadbed.bench;

import io.github.resilience4j.bulkhead.Bulkhead;
import io.github.resilience4j.bulkhead.BulkheadConfig;
import io.github.resilience4j.circuitbreaker.CallNotPermittedException;
import io.github.resilience4j.circuitbreaker.CircuitBreaker;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig;
import io.github.resilience4j.decorators.Decorators;
import io.github.resilience4j.retry.Retry;
import io.github.resilience4j.retry.RetryConfig;
import io.github.resilience4j.timelimiter.TimeLimiter;
import java.time.Duration;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;

/** A call that does nothing, through resilience4j with the settings of the Go benchmarks. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.NANOSECONDS)
public class Calls {
  private Supplier<Integer> full;
  private Supplier<Integer> breaker;
  private Supplier<Integer> refused;
  private Callable<Integer> timed;
  private ExecutorService threads;

  private static CircuitBreaker newBreaker() {
    return CircuitBreaker.of("x", CircuitBreakerConfig.custom()
        .slidingWindowType(CircuitBreakerConfig.SlidingWindowType.TIME_BASED).slidingWindowSize(10)
        .minimumNumberOfCalls(20).failureRateThreshold(50).waitDurationInOpenState(Duration.ofHours(1)).build());
  }

  @Setup
  public void setUp() {
    Bulkhead bulkhead = Bulkhead.of("x", BulkheadConfig.custom().maxConcurrentCalls(200).build());
    Retry retry = Retry.of("x", RetryConfig.custom().maxAttempts(3).build());
    full = Decorators.ofSupplier(() -> 1).withBulkhead(bulkhead).withCircuitBreaker(newBreaker()).withRetry(retry).decorate();
    breaker = CircuitBreaker.decorateSupplier(newBreaker(), () -> 1);
    threads = Executors.newCachedThreadPool();
    Callable<Integer> limited = TimeLimiter.decorateFutureSupplier(TimeLimiter.of(Duration.ofSeconds(1)), () -> threads.submit(() -> 1));
    timed = Decorators.ofCallable(limited).withBulkhead(Bulkhead.of("y", BulkheadConfig.custom().maxConcurrentCalls(200).build()))
        .withCircuitBreaker(newBreaker()).withRetry(Retry.of("y", RetryConfig.custom().maxAttempts(3).build())).decorate();
    CircuitBreaker open = newBreaker();
    open.transitionToOpenState();
    refused = CircuitBreaker.decorateSupplier(open, () -> 1);
  }

  @TearDown
  public void tearDown() {
    threads.shutdownNow();
  }

  /** Retry, breaker, bulkhead. Its time limiter needs a future, so there is no timeout. */
  @Benchmark
  public int full() {
    return full.get();
  }

  /** The same with a timeout, for which the call runs on another thread. */
  @Benchmark
  public int timed() throws Exception {
    return timed.call();
  }

  @Benchmark
  public int breaker() {
    return breaker.get();
  }

  @Benchmark
  public int refused() {
    try {
      return refused.get();
    } catch (CallNotPermittedException expected) {
      return 0;
    }
  }
}
